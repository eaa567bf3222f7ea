"""A report that every mirror takes: what is too much for one is left out."""

from dataclasses import replace

from firedoor.limits import CERTIFICATE_DER_BYTES_MAX, REPORT_BYTES_MAX
from firedoor.wire.codec import pack
from firedoor.wire.messages import ProductHealth, Report
from firedoor.wire.versions import SPOKEN, fields_for

# What is put in later: the certificate, the signature, and what relays change.
_LATER_BYTES = CERTIFICATE_DER_BYTES_MAX + 64 + 32

# The beginning of a check's last words still says which check failed.
_DETAIL_CHARACTERS = 60


def bounded(report: Report) -> Report:
    """`report`, if need be with short details, and then with fewer products, to fit the limit."""
    if _fits(report):
        return report
    short = replace(report, products=tuple(_shortened(each) for each in report.products))
    while not _fits(short):
        short = replace(short, products=short.products[: len(short.products) // 2])
    return short


def _shortened(product: ProductHealth) -> ProductHealth:
    return replace(product, detail=product.detail[:_DETAIL_CHARACTERS])


def _fits(report: Report) -> bool:
    return len(pack(fields_for(SPOKEN, report))) <= REPORT_BYTES_MAX - _LATER_BYTES
