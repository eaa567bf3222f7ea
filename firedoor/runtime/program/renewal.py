"""Keeps a program's certificate fresh: renewed at half of its life, through any mirror.

The key stays; only the certificate changes, in the key file and in both TLS contexts, so standing
connections live on. A machine whose renewal fails says so, and goes on to exchange orders.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from ssl import SSLContext

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from firedoor.errors import FiredoorError, Malformed, Untrusted
from firedoor.identity import PeerId
from firedoor.limits import ENROLMENT_BYTES_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.authority import make_request
from firedoor.runtime.keys.key_files import KeyFile, read_key_file, replace_certificate
from firedoor.runtime.keys.tls import credentials_of, load_identity, peer_of_certificate
from firedoor.runtime.logs import log
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.units import UnixTime

# Looked at this often: a machine that wakes from a week's sleep renews within minutes.
LOOK_S = 300.0

# Due, and no mirror is connected yet, or none could reach the origin: twice as long each time, for
# an air-gapped site waits for days.
TRY_AGAIN_S = 10.0
TRY_AGAIN_S_MAX = 60.0

Ask = Callable[[], list[tuple[str, int, PeerId]]]
"""Host, port and id of the mirrors that may be asked."""


class Renewal:
    """The certificate in one key file. `contexts`: where it is in use."""

    def __init__(self, path: Path, client: PeerClient, clock: Clock) -> None:
        self._path = path
        self._client = client
        self._clock = clock
        self.contexts: list[SSLContext] = [client.context]

    async def keep(self, mirrors: Ask) -> None:
        """Renew when it is due, for ever."""
        pause_s = TRY_AGAIN_S
        while True:
            is_fresh = False
            try:
                request = self.due_request()
                is_fresh = request is None or await self._renew(request, mirrors())
                if not is_fresh:
                    log("not-renewed-yet", level="warning", why="no mirror has answered it")
            except (FiredoorError, OSError) as error:
                log("not-renewed", level="error", why=str(error), do="firedoor enrol --renew")
            await asyncio.sleep(LOOK_S if is_fresh else pause_s)
            pause_s = TRY_AGAIN_S if is_fresh else min(2 * pause_s, TRY_AGAIN_S_MAX)

    def certificate(self) -> bytes:
        """The certificate in use, in DER; empty where the key file cannot be read just now."""
        with suppress(FiredoorError, ValueError):
            pem = read_key_file(self._path, str).certificate.encode()
            return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        return b""

    def due_request(self) -> bytes | None:
        """The request for the next certificate, in PEM; None: it is not due.

        Raises:
            Unavailable, Malformed: the key file cannot be read.
        """
        key = read_key_file(self._path, str)
        is_due = is_past_half(key.certificate.encode(), self._clock.unix())
        return make_request(key.tls_seed) if is_due else None

    def take(self, certificate: bytes) -> None:
        """Use this certificate from now on; raises as `checked_renewal`."""
        key = read_key_file(self._path, str)
        text = checked_renewal(key, certificate, self._clock.unix())
        replace_certificate(self._path, text)
        credentials = credentials_of(read_key_file(self._path, str))
        for context in self.contexts:
            load_identity(context, credentials)
        log("certificate-renewed", peer=key.name)
        _say_ring(key.certificate.encode(), certificate, self._clock.unix())

    async def _renew(self, request: bytes, mirrors: list[tuple[str, int, PeerId]]) -> bool:
        """Ask one mirror after the other; whether one has brought a new certificate."""
        for host, port, mirror in mirrors:
            try:
                answer = await self._client.post(
                    host, port, "/v1/renew", request, limit=ENROLMENT_BYTES_MAX
                )
                self.take(answer)
            except FiredoorError as error:
                log("renewal-refused", level="warning", peer=mirror, why=str(error))
                continue
            return True
        return False


def _say_ring(old: bytes, new: bytes, now: UnixTime) -> None:
    """Say that halts of the new ring count from the next start on, if a certificate names one."""
    was, is_now = peer_of_certificate(old, now).ring, peer_of_certificate(new, now).ring
    if was != is_now:
        log("ring-changed", level="error", was=was, now=is_now, do="restart this program")


def checked_renewal(key: KeyFile, certificate: bytes, now: UnixTime) -> str:
    """The certificate that a mirror offers for this key, as text, if it is a renewal and no more.

    A file that holds another would cost this machine its place in the fleet.

    Raises:
        Malformed: it is no certificate.
        Untrusted: not by the fleet's authority, not for this key, or of another role, site or end.
    """
    what = "renewed certificate"
    mine = peer_of_certificate(key.certificate.encode(), now)
    offered = peer_of_certificate(certificate, now)
    if (offered.id, offered.role, offered.site) != (mine.id, mine.role, mine.site):
        raise Untrusted(what, wanted="one of this machine", got="another's")
    old = x509.load_pem_x509_certificate(key.certificate.encode())
    try:
        text = certificate.decode("ascii")
        new = x509.load_pem_x509_certificate(certificate)
        new.verify_directly_issued_by(x509.load_pem_x509_certificate(key.ca.encode()))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise Untrusted(
            what, wanted="one by the fleet's authority", got=repr(error)[:80]
        ) from error
    if new.public_key() != old.public_key() or new.not_valid_after_utc < old.not_valid_after_utc:
        raise Untrusted(what, wanted="one for this key that ends later", got="another")
    return text


def is_past_half(certificate: bytes, now: UnixTime) -> bool:
    """Whether half of a certificate's life is over, or it has not begun by this clock.

    Raises:
        Malformed: it is none.
    """
    try:
        read = x509.load_pem_x509_certificate(certificate)
    except ValueError as error:
        raise Malformed("certificate", wanted="PEM", got=str(error)[:80]) from error
    since = read.not_valid_before_utc.timestamp()
    until = read.not_valid_after_utc.timestamp()
    return not since <= now < since + (until - since) / 2
