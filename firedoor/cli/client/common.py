"""What several commands need: passphrases, key files, a connection, one exit."""

import asyncio
import getpass
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from firedoor.errors import FiredoorError, Malformed, Unavailable, sentence_of
from firedoor.runtime.keys.passphrases import read_passphrase
from firedoor.runtime.terminal import plain

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from firedoor.cli.client.peer_status import Answer
    from firedoor.runtime.keys.key_files import KeyFile
    from firedoor.runtime.network.peer_client import PeerClient

# After the first mirror of a LAN others have this long.
_MORE_S = 0.3

T = TypeVar("T")

STATUS_BYTES_MAX = 64 << 20

# An error's sentence, whatever long names are in it.
SENTENCE_MAX = 2000


def passphrase_of(path: Path | None, what: str = "") -> Callable[[], str]:
    """Where a passphrase comes from when one is needed: a file, or the person at the keyboard.

    `what`: of which key, for the prompt.
    """

    def ask() -> str:
        if path is not None:
            return read_passphrase(path)
        if not sys.stdin.isatty():
            raise Unavailable("passphrase", why="no keyboard; give --passphrase-file")
        return getpass.getpass(f"passphrase of {what}: " if what else "passphrase: ")

    return ask


def new_passphrase(path: Path | None) -> str:
    """A passphrase for keys that are about to be made; typed twice.

    Raises:
        Malformed: it is empty, or was typed in two ways.
        Unavailable: there is neither a file nor a keyboard.
    """
    passphrase = passphrase_of(path, "the new keys")()
    if not passphrase:
        wanted = "at least one character; --no-passphrase leaves keys open"
        raise Malformed("passphrase", wanted=wanted, got="none")
    if path is None and passphrase_of(None, "the new keys, again")() != passphrase:
        raise Malformed("passphrase", wanted="the same one twice", got="two")
    return passphrase


def open_key(path: Path, passphrase_file: Path | None) -> "KeyFile":
    """The key in a file; raises as `read_key_file`."""
    from firedoor.runtime.keys.key_files import read_key_file  # noqa: PLC0415  # keeps --help fast

    return read_key_file(path, passphrase_of(passphrase_file, path.name))


def checked_public(what: str, text: str) -> str:
    """A public key that a person has typed; `what`: the option.

    Raises:
        Malformed: not 64 hex digits.
    """
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):  # noqa: PLR2004  # 32 bytes
        raise Malformed(what, wanted="a public key, 64 hex digits", got=repr(text[:80]))
    return text


def with_client(key: "KeyFile", work: "Callable[[PeerClient], Awaitable[T]]") -> T:
    """Run `work` with a client of this key's identity, and close it."""
    from firedoor.runtime.clocks import Clock  # noqa: PLC0415  # keeps --help fast
    from firedoor.runtime.keys.tls import credentials_of  # noqa: PLC0415
    from firedoor.runtime.network.pacing import Budget  # noqa: PLC0415
    from firedoor.runtime.network.peer_client import PeerClient  # noqa: PLC0415

    async def run() -> T:
        client = PeerClient(credentials_of(key), Clock(), Budget(0))
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


async def status_at(client: "PeerClient", address: tuple[str, int]) -> "Answer":
    """The status of a peer of any role.

    Raises:
        Unavailable: nobody answers there.
        Malformed: what it answers is no status.
    """
    from firedoor.cli.client.peer_status import answer_of  # noqa: PLC0415  # keeps --help fast
    from firedoor.identity import Role  # noqa: PLC0415

    for role in (Role.MIRROR, Role.AGENT):
        try:
            body = await client.get(*address, "/v1/status", role=role, limit=STATUS_BYTES_MAX)
        except Unavailable as error:
            last = error
        else:
            return answer_of(body, f"the status of {address[0]}:{address[1]}")
    raise last


async def first_status(client: "PeerClient", addresses: list[tuple[str, int]]) -> "Answer":
    """The status of the first of these peers that answers with one; raises as `status_at`."""
    for address in addresses[:-1]:
        with suppress(FiredoorError):
            return await status_at(client, address)
    return await status_at(client, addresses[-1])


async def peers_to_try(
    client: "PeerClient", key: "KeyFile", to: list[str], wait_s: float
) -> list[tuple[str, int]]:
    """Whom to ask: the named peers, else those found by mDNS and the key file's origin.

    What mDNS shows counts once `client` has seen its certificate.

    Raises:
        Unavailable: none of them is known.
        Malformed: an address that is none.
    """
    found: list[tuple[str, int]] = []
    with suppress(TimeoutError):
        async with (
            asyncio.timeout(wait_s + _MORE_S) as bound,
            aclosing(peers_as_found(client, key, to, wait_s)) as peers,
        ):
            async for address, is_near in peers:
                found.append(address)
                if is_near:
                    # Others of the site have a moment more: one that answers may be hostile.
                    bound.reschedule(asyncio.get_running_loop().time() + _MORE_S)
    # The key file's origin comes first there and last here: a mirror of the site is nearer.
    return found if to else [*found[1:], *found[:1]] if key.origin else found


async def peers_as_found(
    client: "PeerClient", key: "KeyFile", to: list[str], wait_s: float
) -> "AsyncGenerator[tuple[tuple[str, int], bool], None]":
    """Where to hand an order, as it is found: address, and whether it is a mirror of this LAN.

    The named peers; else the key file's origin at once, and who proves itself by mDNS within
    `wait_s`.

    Raises:
        Unavailable: none of them is known.
        Malformed: an address that is none.
    """
    from firedoor.runtime.settings import split_address  # noqa: PLC0415

    for text in to:
        yield split_address(text), False
    if to:
        return
    known = {split_address(key.origin)} if key.origin else set()
    for address in known:
        yield address, False
    if key.mdns:
        from firedoor.dice import Dice  # noqa: PLC0415
        from firedoor.identity import FleetId, Role  # noqa: PLC0415
        from firedoor.runtime.clocks import Clock  # noqa: PLC0415
        from firedoor.runtime.network.search import Search  # noqa: PLC0415

        search = Search(client, Dice(Clock().seed()))
        # The key may be on another machine than the one whose interfaces it names.
        with suppress(Unavailable):
            async with aclosing(search.find(FleetId(key.fleet), key.mdns, wait_s)) as found:
                async for role, address in found:
                    if address not in known:
                        known.add(address)
                        yield address, role is Role.MIRROR
    if not known:
        raise Unavailable("no peer", why="name one with --to HOST:PORT")


def fail(error: FiredoorError | OSError) -> int:
    """Say an error in one sentence; the exit code."""
    # Names of files and what peers say may be anybody's text.
    sentence = plain(sentence_of(error), SENTENCE_MAX)
    print(f"firedoor: {sentence}", file=sys.stderr)  # noqa: T201  # the program's answer
    return 1


def say(text: str) -> None:
    """One line to standard output, at once."""
    print(text, flush=True)  # noqa: T201  # the program's answer
