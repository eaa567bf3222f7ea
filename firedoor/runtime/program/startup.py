"""What both daemons do around their work: arguments, files, sockets, signals and one exit code.

uvloop where there is one, asyncio elsewhere. Exit codes: 0, 1 failed, 2 usage, 130 interrupted
before it was up.
"""

import argparse
import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firedoor import __version__
from firedoor.errors import FiredoorError, Malformed, Unavailable, sentence_of
from firedoor.halt.lease import TERMS, THIN_WAN
from firedoor.identity import FleetId, Peer, PeerId, Role
from firedoor.limits import (
    BATCH_BYTES,
    METADATA_BYTES_MAX,
    REQUESTS_MAX,
    REQUESTS_PER_PEER_MAX,
)
from firedoor.node.settings import NodeSettings
from firedoor.pieces.manifest_reading import LARGE, NORMAL
from firedoor.runtime.clocks import Clock
from firedoor.runtime.folders import read_named, require_regular
from firedoor.runtime.host.contract import Signer
from firedoor.runtime.host.host import Host, HostParts
from firedoor.runtime.keys.key_files import KeyFile, read_key_file
from firedoor.runtime.keys.tls import Credentials, credentials_of, peer_of_certificate
from firedoor.runtime.metadata.catalogue import Catalogue
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.settings import AgentSettings, MirrorSettings, split_address
from firedoor.runtime.storage.order_log import OrderLog
from firedoor.runtime.storage.piece_store import PieceStore
from firedoor.runtime.terminal import plain

# mallopt(3) parameters: keep piece buffers on the heap, where glibc would map and unmap each one,
# the largest single cost of a Python HTTP client (FACTS.md: 0.77 to 0.34 CPU-seconds a GB).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ProgramIdentity:
    """Who this program is: its peer facts and what proves them."""

    peer: Peer
    credentials: Credentials
    key: KeyFile


def main_of(name: str, description: str, start: Callable[[Path, bool], None]) -> int:
    """Run a daemon's command line. `start(config, is_check)` does the work.

    Returns the exit code; every FiredoorError is one sentence on stderr.
    """
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--version", action="version", version=f"{name} {__version__}")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--check-config", action="store_true", help="read the settings and stop")
    arguments = parser.parse_args()
    return guarded(name, lambda: start(arguments.config, arguments.check_config))


def guarded(name: str, work: Callable[[], None]) -> int:
    """Run `work`; what it refuses, and what the disk refuses, is a sentence and exit code 1."""
    # What a program keeps is its own, whatever it was started under; what others shall read (a
    # release's files) gets its modes by name.
    os.umask(0o077)
    try:
        work()
    except (FiredoorError, OSError) as error:
        sentence = plain(sentence_of(error), 2000)
        print(f"{name}: {sentence}", file=sys.stderr)  # noqa: T201  # the program's answer
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run_loop(work: Coroutine[Any, Any, None]) -> bool:
    """Run `work` until it ends or SIGTERM or SIGINT asks it to stop; whether it ended by itself."""
    _tune_allocator()
    if sys.platform != "win32":
        import uvloop  # noqa: PLC0415  # not on Windows

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    else:
        runner = asyncio.Runner()
    with runner:
        return runner.run(_until_signalled(work))


async def _until_signalled(work: Coroutine[Any, Any, None]) -> bool:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Windows has no signal handlers in a loop; Ctrl-C raises KeyboardInterrupt there.
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return False
    except BaseExceptionGroup as group:
        _, rest = group.split(asyncio.CancelledError)
        if rest is not None:
            raise_first(rest)
        return False
    return True


def raise_first(group: BaseException) -> None:
    """Raise the first plain error inside nested groups."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    raise group


def read_root(path: Path) -> tuple[bytes, FleetId]:
    """A fleet's first root.json and the fleet id that it makes.

    Raises:
        Unavailable: it cannot be read.
    """
    data = read_named(path.expanduser(), METADATA_BYTES_MAX)
    return data, fleet_of(data)


def read_identity(
    path: Path, role: Role, clock: Clock, passphrase: Callable[[], str]
) -> ProgramIdentity:
    """The key and certificate of this program.

    Raises:
        Unavailable, Malformed, Untrusted: the file is missing, odd, or of another role.
    """
    if not path.is_file():
        raise Unavailable(str(path), why="no identity yet; run `firedoor enrol TOKEN --state DIR`")
    key = read_key_file(path, passphrase)
    credentials = credentials_of(key)
    peer = peer_of_certificate(credentials.certificate, clock.unix())
    if peer.role is not role:
        raise Malformed(
            str(path), wanted=f"a certificate of role {role.value}", got=peer.role.value
        )
    return ProgramIdentity(peer, credentials, key)


def make_host(
    person: ProgramIdentity,
    settings: AgentSettings | MirrorSettings,
    clock: Clock,
    store: PieceStore,
    *,
    signer: Callable[[], Signer | None] = lambda: None,
    beacon_key: str = "",
) -> Host:
    """A host on the state folder of these settings. `beacon_key`: as in `NodeSettings`.

    Raises:
        Malformed: root or site are not those of the identity.
        Unavailable: the root or the state folder cannot be read.
    """
    root, fleet = read_root(Path(settings.fleet_root))
    if person.key.fleet != fleet:
        wanted, got = f"an identity of fleet {fleet[:12]}", person.key.fleet[:12]
        raise Malformed(settings.fleet_root, wanted=wanted, got=got)
    site = person.peer.site
    if site != settings.site:
        # Who a peer is stands in its certificate; a settings file that says otherwise is a mistake.
        wanted = f"{site}, as enrolled"
        raise Malformed("site in the settings", wanted=wanted, got=settings.site)
    state, limits = Path(settings.state).expanduser(), settings.limits
    node = node_settings_of(person, settings, beacon_key)
    bound = LARGE if limits.large_manifests else NORMAL
    budget = Budget(limits.receive_bytes_per_s)
    parts = HostParts(
        clock=clock,
        client=PeerClient(person.credentials, clock, budget, is_thin=node.lease is THIN_WAN),
        catalogue=Catalogue(state / "metadata", root=root, fleet=fleet, clock=clock, bound=bound),
        store=store,
        order_log=OrderLog(state / "orders.log", may_heal=not node.is_origin),
        interfaces=settings.mdns,
        signer=signer,
    )
    return Host(node, parts)


def node_settings_of(
    person: ProgramIdentity, settings: AgentSettings | MirrorSettings, beacon_key: str
) -> NodeSettings:
    """What a node needs to know of its certificate and its settings file."""
    if isinstance(settings, MirrorSettings):
        above, is_origin = settings.upstream, bool(settings.origin_folder)
    else:
        above, is_origin = settings.mirrors, False
    return NodeSettings(
        me=PeerId(person.peer.id),
        role=person.peer.role,
        site=person.peer.site,
        port=split_address(settings.listen)[1],
        is_origin=is_origin,
        has_mirrors=bool(above),
        requests_max=places_of(settings.limits.receive_bytes_per_s),
        lease=TERMS[settings.lease],
        beacon_key=beacon_key,
        ring=person.peer.ring,
    )


def places_of(receive_bytes_per_s: int) -> int:
    """How many requests a line fills: two seconds' worth of batches. Source: Little's law."""
    if not receive_bytes_per_s:
        return REQUESTS_MAX
    worth = 2 * receive_bytes_per_s // BATCH_BYTES
    return max(REQUESTS_PER_PEER_MAX + 1, min(REQUESTS_MAX, worth))


class StateLock:
    """Only one program may use a state folder; the file holds its process id."""

    def __init__(self, state: Path) -> None:
        # It holds a private key, and what a fleet runs.
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = state / "lock"
        # A link would lead to a file of somebody else, which is emptied below.
        no_link = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        require_regular(self._path)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | no_link, 0o600)
        self._file = os.fdopen(descriptor, "r+", encoding="ascii")
        try:
            _lock(self._file.fileno())
        except OSError as error:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            self._file.close()
            why = f"in use by process {owner}; each program needs a state folder of its own"
            raise Unavailable(str(state), why=why) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def close(self) -> None:
        """Let go of the folder."""
        self._file.close()


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415  # Windows only

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl  # noqa: PLC0415  # POSIX only

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _tune_allocator() -> None:
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return  # Another C library: no harm, only slower.
    libc.mallopt(_M_MMAP_THRESHOLD, 64 * _MIB)
    libc.mallopt(_M_TRIM_THRESHOLD, 128 * _MIB)
    libc.mallopt(_M_TOP_PAD, 16 * _MIB)
