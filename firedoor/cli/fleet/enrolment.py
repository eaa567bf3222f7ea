"""`firedoor token` and `firedoor enrol`: how a machine gets its certificate.

The token carries the CA's fingerprint: the CA is fetched without trust, compared, and only then,
over a connection that it verifies, is the secret sent.
"""

import asyncio
import base64
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import aiohttp
import msgspec
from msgspec import Meta

from firedoor.cli.client.answers import say
from firedoor.cli.client.origin import Origin, with_origin
from firedoor.cli.client.peer_search import peers_to_try
from firedoor.cli.client.requests import with_client
from firedoor.errors import (
    FiredoorError,
    Malformed,
    Refused,
    TooLarge,
    Unavailable,
    Untrusted,
)
from firedoor.identity import Peer, Role, checked_name
from firedoor.limits import ENROLMENT_BYTES_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.files import durable_write
from firedoor.runtime.folders import read_named
from firedoor.runtime.keys.authority import fingerprint, id_of_request, make_request
from firedoor.runtime.keys.key_files import (
    KeyFile,
    read_key_file,
    replace_certificate,
    write_key_file,
)
from firedoor.runtime.keys.tls import blind_context, der_of, leaf_of, pinned_context, role_name
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.runtime.network.first_answer import first_answer
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.program.renewal import checked_renewal
from firedoor.runtime.settings import split_address
from firedoor.runtime.terminal import plain
from firedoor.trust.keys import key_of
from firedoor.wire.codec import record
from firedoor.wire.json_text import json_map, read_json

_ANSWER_BYTES_MAX = 1 << 20
_SPAN_S = 30

# A token is some 300 characters.
_TOKEN_BYTES_MAX = 8192

# A technician's round of a site.
_TOKENS_MAX = 1000

# The seeds of an identity that has no certificate yet.
_WAITING = "identity.new.key"


@dataclass(frozen=True, slots=True)
class Token:
    """What a token says. It is a secret until it is used or out of date."""

    fleet: str
    address: str
    ca: str
    secret: str


class TokenAnswer(msgspec.Struct, frozen=True):
    """What the origin answers to who asks for a token."""

    token: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,128}\Z")]


class Enrolled(msgspec.Struct, frozen=True):
    """What an enrolment listener answers, before any of it is believed."""

    certificate: Annotated[str, Meta(max_length=ENROLMENT_BYTES_MAX)]
    ca: Annotated[str, Meta(max_length=ENROLMENT_BYTES_MAX)]
    root: Annotated[str, Meta(max_length=_ANSWER_BYTES_MAX)]


def make_tokens(key: KeyFile, grant: tuple[str, str, str, int], *, enrol: str, count: int) -> None:
    """Ask the origin for tokens and print one a line. `grant`: role, site, ring, seconds.

    Raises:
        Refused, Unavailable: the origin says no, or does not answer.
    """
    role, site, ring, span_s = grant
    if role not in {Role.AGENT.value, Role.MIRROR.value}:
        raise Malformed("--role", wanted="agent or mirror", got=repr(role))
    checked_name("--site", site)
    checked_name("--ring", ring)
    if not 1 <= count <= _TOKENS_MAX:
        raise Malformed("--count", wanted=f"1 to {_TOKENS_MAX}", got=str(count))
    split_address(enrol)
    body = json.dumps({"role": role, "site": site, "ring": ring, "span_s": span_s}).encode()

    async def work(origin: Origin) -> None:
        for _ in range(count):
            answer = json_map(await origin.post("/v1/tokens", body), "token")
            secret = read_json(TokenAnswer, answer, "token").token
            table = {
                "fleet": key.fleet,
                "address": enrol,
                "ca": fingerprint(key.ca.encode()),
                "secret": secret,
            }
            say(base64.urlsafe_b64encode(json.dumps(table).encode()).decode())

    with_origin(key, work)


def enrol(text: str, state: Path) -> None:
    """Use a token: write identity.key and root.json into `state`.

    Raises:
        Malformed: no token, or `state` holds an identity already.
        Untrusted: the listener is not this fleet's.
        Unavailable, Refused: it does not answer, or says no.
    """
    token = _read_token(text)
    if (state / "identity.key").exists():
        raise Malformed(str(state), wanted="no identity yet", got="identity.key; use --renew")
    secret = _prepared_secret(token, state)
    answer, ca = asyncio.run(_ask(token, make_request(secret[32:])))
    root = _root_of(answer, token)
    peer = _peer_of(answer, ca, secret[32:])
    public = key_of(secret[:32])
    key = KeyFile(
        role=peer.role.value,
        name=peer.id,
        fleet=token.fleet,
        keyid=public.keyid,
        public=public.keyval["public"],
        secret=secret.hex(),
        certificate=answer.certificate,
        ca=answer.ca,
    )
    durable_write(state / "root.json", root)
    # A daemon starts unattended: its key opens by itself and is guarded by its mode.
    write_key_file(state / "identity.key", key, None)
    (state / _WAITING).unlink(missing_ok=True)
    place = f"site {peer.site}, ring {peer.ring}"
    say(f"enrolled as {key.role} {key.name} at {place}; identity in {state}")


def _root_of(answer: Enrolled, token: Token) -> bytes:
    """The fleet's first root, if it is the one whose digest the token carries."""
    try:
        root = base64.b64decode(answer.root, validate=True)
    except ValueError as error:
        raise Malformed("root.json", wanted="base64", got="something else") from error
    if fleet_of(root) != token.fleet:
        raise Untrusted("root.json", wanted=f"fleet {token.fleet[:12]}", got=fleet_of(root)[:12])
    return root


def _peer_of(answer: Enrolled, ca: bytes, tls_seed: bytes) -> Peer:
    """Who this machine is by its new certificate, if the pinned CA has issued it for our own key.

    The answer may bring the CA's certificate made again, for the same key (`keys authority`).
    """
    der = der_of(answer.certificate.encode("ascii", "replace"))
    brought = answer.ca.encode("ascii", "replace")
    leaf = leaf_of(der, ca) if der and leaf_of(der, brought) is not None else None
    if leaf is None or leaf.peer.id != id_of_request(make_request(tls_seed)):
        wanted, got = "one by the fleet's CA for this machine's key", "another"
        raise Untrusted("certificate", wanted=wanted, got=got)
    if leaf.peer.role is Role.OPERATOR:
        raise Untrusted("certificate", wanted="an agent's or a mirror's", got="an operator's")
    return leaf.peer


def _prepared_secret(token: Token, state: Path) -> bytes:
    """The seeds of the identity to come, on the disk before the token is used up.

    Raises:
        Unavailable: the folder cannot be written; the token is still good.
    """
    path = state / _WAITING
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(str(state), why=error.strerror or "not a folder") from error
    if path.exists():
        # An answer was lost: a token enrols the same key again while it lasts.
        key = read_key_file(path, str)
        return bytes.fromhex(key.secret)
    secret = os.urandom(64)
    public = key_of(secret[:32])
    plain = public.keyval["public"]
    key = KeyFile("waiting", "waiting", token.fleet, public.keyid, plain, secret.hex())
    write_key_file(path, key, None)
    return secret


def renew(state: Path, to: list[str]) -> None:
    """Renew the certificate in `state` through any mirror.

    Raises:
        Unavailable, Refused: no mirror answers, or the origin says no.
    """
    path = state / "identity.key"
    key = read_key_file(path, str)
    request = make_request(key.tls_seed)

    async def ask(client: PeerClient) -> bytes:
        return await first_answer(
            await peers_to_try(client, key, to, 3.0),
            lambda at: client.post(*at, "/v1/renew", request, limit=ENROLMENT_BYTES_MAX),
            nobody=Unavailable("no mirror", why="name one with --to HOST:PORT"),
            passed_over=FiredoorError,
        )

    certificate = checked_renewal(key, with_client(key, ask), Clock().unix())
    replace_certificate(path, certificate)
    say(f"renewed {key.role} {key.name}")


def token_text(argument: str, file: Path | None) -> str:
    """The token of a command line: as it stands, from a file, or from standard input for `-`.

    Who looks at a machine's processes sees what stands on their command lines.

    Raises:
        Malformed: none is given, or two are.
        Unavailable, TooLarge: the file cannot be read.
    """
    if bool(argument) == (file is not None):
        wanted = "a token, --token-file FILE, or - for standard input"
        raise Malformed("token", wanted=wanted, got="two" if argument else "none")
    if argument == "-" or (file is not None and str(file) == "-"):
        data = sys.stdin.buffer.read(_TOKEN_BYTES_MAX + 1)
    elif file is not None:
        data = read_named(file, _TOKEN_BYTES_MAX)
    else:
        return argument
    if len(data) > _TOKEN_BYTES_MAX:
        raise TooLarge("token", limit=_TOKEN_BYTES_MAX, size=len(data))
    return data.decode("ascii", "replace").strip()


def _read_token(text: str) -> Token:
    try:
        table = json_map(base64.urlsafe_b64decode(text.encode()), "token")
        token = record(Token, table, what="token")
    except (ValueError, Refused) as error:
        raise Malformed("token", wanted="one from `firedoor token`", got=str(error)[:80]) from error
    split_address(token.address)
    return token


async def _ask(token: Token, request: bytes) -> tuple[Enrolled, bytes]:
    """The listener's answer, and the CA that the token names."""
    timeout = aiohttp.ClientTimeout(total=_SPAN_S)
    base = f"https://{token.address}"
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            async with session.get(f"{base}/ca.pem", ssl=blind_context()) as response:
                ca = await response.content.read(ENROLMENT_BYTES_MAX)
            _check_ca(ca, token)
            asked = json.dumps({"secret": token.secret, "request": request.decode()})
            async with session.post(
                f"{base}/enrol",
                data=asked,
                ssl=pinned_context(ca),
                server_hostname=role_name(Role.MIRROR),
            ) as response:
                body = await response.content.read(_ANSWER_BYTES_MAX)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise Unavailable(token.address, why=f"{type(error).__name__}: {error}"[:200]) from error
    table = json_map(body, "enrolment")
    if "certificate" not in table:
        raise Untrusted("enrolment", wanted="acceptance", got=plain(table.get("error"), 200))
    return read_json(Enrolled, table, "enrolment"), ca


def _check_ca(ca: bytes, token: Token) -> None:
    try:
        found = fingerprint(ca)
    except ValueError:
        found = "no certificate"
    if found != token.ca:
        raise Untrusted("enrolment listener", wanted=f"CA {token.ca[:12]}", got=found[:12])
