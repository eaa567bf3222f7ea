"""What an order is about, and whether it covers a release.

A release halt denies the content digest too, so that the same bytes under another version stay
halted. Scopes are text on the wire because a person types and reads them.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from firedoor.errors import Malformed
from firedoor.identity import Place, checked_name


class ScopeKind(Enum):
    """How wide an order reaches."""

    RELEASE = "release"
    DIGEST = "digest"
    RANGE = "range"
    PRODUCT = "product"
    PUBLISHER = "publisher"
    SITE = "site"
    RING = "ring"
    EVERYTHING = "everything"


# Scopes that deny what they cover by content too, so that the same bytes stay halted anew named.
NAMES_VERSIONS = frozenset({ScopeKind.RELEASE, ScopeKind.RANGE})


@dataclass(frozen=True, slots=True)
class Subject:
    """The facts of one release that a scope may name.

    `files` is empty until the manifest itself is held; a digest scope then still meets `content`.
    `counter` is the publisher's own order of a product's releases, as it was signed.
    """

    product: str
    version: str
    content: bytes
    files: frozenset[bytes] = frozenset()
    counter: int = 0
    publisher: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """One parsed scope; the fields that its kind does not use are empty.

    `name`: of a product, publisher, site or ring; `first`, `last`: counters of a range, inclusive.
    """

    kind: ScopeKind
    name: str = ""
    version: str = ""
    digest: bytes = b""
    first: int = 0
    last: int = 0

    @property
    def text(self) -> str:
        """The scope as a person types it."""
        match self.kind:
            case ScopeKind.DIGEST:
                return f"digest:{self.digest.hex()}"
            case ScopeKind.RELEASE:
                return f"{self.name}=={self.version}"
            case ScopeKind.RANGE:
                return f"{self.name}#{self.first}..{self.last}"
            case ScopeKind.PRODUCT:
                return self.name
            case ScopeKind.PUBLISHER | ScopeKind.SITE | ScopeKind.RING:
                return f"{self.kind.value}:{self.name}"
            case ScopeKind.EVERYTHING:
                return "everything"

    def covers(self, subject: Subject, contents: Collection[bytes], place: Place) -> bool:
        """Whether the order reaches `subject` on a machine of `place`.

        `contents`: digests that its release halt denies; `place` is that of the certificate, not of
        the network of the moment.
        """
        match self.kind:
            case ScopeKind.EVERYTHING:
                is_named = True
            case ScopeKind.SITE:
                is_named = place.site == self.name
            case ScopeKind.RING:
                is_named = place.ring == self.name
            case ScopeKind.PUBLISHER:
                is_named = subject.publisher == self.name
            case ScopeKind.PRODUCT:
                is_named = subject.product == self.name
            case ScopeKind.RANGE:
                is_within = self.first <= subject.counter <= self.last
                is_named = subject.product == self.name and is_within
            case ScopeKind.RELEASE:
                is_named = (subject.product, subject.version) == (self.name, self.version)
            case ScopeKind.DIGEST:
                is_named = subject.content == self.digest or self.digest in subject.files
        return is_named or (self.kind in NAMES_VERSIONS and subject.content in contents)


_DIGEST = re.compile(r"digest:([0-9a-f]{64})")
_RANGE = re.compile(r"(.+)#([0-9]{1,12})\.\.([0-9]{1,12})")
_NAMED = {
    "publisher": ScopeKind.PUBLISHER,
    "site": ScopeKind.SITE,
    "ring": ScopeKind.RING,
}


def parse_scope(text: str) -> Scope:
    """The scope that a person or a record names.

    `PRODUCT==VERSION`, `PRODUCT#FIRST..LAST` by release counters, `PRODUCT`, `publisher:NAME`,
    `site:NAME`, `ring:NAME`, `everything`, or `digest:` and 64 hex digits. A product cannot be
    called `everything`; publish refuses that name.

    Raises:
        Malformed: anything else.
    """
    if text == "everything":
        return Scope(ScopeKind.EVERYTHING)
    mark, colon, name = text.partition(":")
    if colon:
        return _marked(text, mark, name)
    found = _RANGE.fullmatch(text)
    if found is not None:
        first, last = int(found[2]), int(found[3])
        if not 1 <= first <= last:
            raise Malformed("scope", wanted="a range from 1 on", got=repr(text[:80]))
        product = checked_name("scope's product", found[1])
        return Scope(ScopeKind.RANGE, product, first=first, last=last)
    product, equals, version = text.partition("==")
    checked_name("scope's product", product)
    if not equals:
        return Scope(ScopeKind.PRODUCT, product)
    return Scope(ScopeKind.RELEASE, product, version=checked_name("scope's version", version))


def _marked(text: str, mark: str, name: str) -> Scope:
    found = _DIGEST.fullmatch(text)
    if found is not None:
        return Scope(ScopeKind.DIGEST, digest=bytes.fromhex(found[1]))
    if mark not in _NAMED:
        wanted = "digest: and 64 hex digits, publisher:NAME, site:NAME or ring:NAME"
        raise Malformed("scope", wanted=wanted, got=repr(text[:80]))
    return Scope(_NAMED[mark], checked_name(f"scope's {mark}", name))
