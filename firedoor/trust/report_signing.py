"""An endpoint's signature on its own report, so that a mirror of any site may carry it.

Signed are the fields that version 2 knows of an endpoint's own word, in a fixed order. What relays
add (age, whether it is connected) is theirs, and what later versions add is not covered. The
signature proves who said it, not that it is true.
"""

from dataclasses import replace

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from firedoor.identity import FleetId
from firedoor.trust.signing import sign, signed_bytes
from firedoor.wire.codec import pack
from firedoor.wire.messages import Report


def signed_report(report: Report, *, fleet: FleetId, seed: bytes) -> Report:
    """`report` with the signature of its endpoint, by the seed of its TLS identity."""
    return replace(report, signature=sign(seed, _said(report, fleet)))


def is_signed_by(report: Report, public: bytes, fleet: FleetId) -> bool:
    """Whether the holder of this 32-byte public key has said what is in `report`."""
    if not report.signature:
        return False
    try:
        VerifyKey(public).verify(_said(report, fleet), report.signature)
    # PyNaCl's own TypeError and ValueError, for wrong sizes, are also Python's.
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


def _said(report: Report, fleet: FleetId) -> bytes:
    products = [
        [each.product, each.version, each.manifest, each.phase, each.detail]
        for each in report.products
    ]
    said = [report.id, report.said_at, report.version, report.lease_s, report.orders, products]
    return signed_bytes(fleet, "report", pack(said))
