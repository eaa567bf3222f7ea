"""Health reports that are within the protocol and meant to do harm."""

from dataclasses import asdict

from firedoor.limits import FRAME_BYTES_MAX
from firedoor.wire.codec import encode
from firedoor.wire.messages import Health, ProductHealth, Report
from tests.attacks.hostile import frame_of

PRODUCTS_MAX = 256
TEXT_MAX = 400


def oversize_report(peer: str, site: str) -> bytes:
    """One report that fits its frame, and no frame once what it leaves out is filled in.

    Nothing in it is against the protocol. Filled in it is as large as a frame, so that it can be
    kept, and its list makes it larger.
    """
    texts = ["x" * TEXT_MAX] * (4 * PRODUCTS_MAX)
    free = FRAME_BYTES_MAX - 2 - len(encode(_report_of(peer, site, texts)))
    for at in range(len(texts)):
        # Characters of two bytes take up what is still free.
        wide = min(TEXT_MAX, free)
        texts[at] = "é" * wide + texts[at][wide:]
        free -= wide
    full = _report_of(peer, site, texts)
    assert len(encode(full)) == FRAME_BYTES_MAX - 2
    bare = asdict(full) | {"role": "", "site": ""}
    for each in ("age_s", "is_connected", "lease_s"):
        del bare[each]
    for product in bare["products"]:
        del product["detail"]
    frame = frame_of(Health, {"reports": [bare]})
    assert len(frame) < FRAME_BYTES_MAX
    return frame


def small_report(peer: str, version: str = "1.0") -> Report:
    """A report as an honest endpoint makes it."""
    product = ProductHealth("kiosk", version, "ab" * 32, "idle")
    return Report(peer, "agent", "branch", (product,), ())


def _report_of(peer: str, site: str, texts: list[str]) -> Report:
    fours = [texts[at : at + 4] for at in range(0, len(texts), 4)]
    return Report(peer, "agent", site, tuple(ProductHealth(*four) for four in fours), ())
