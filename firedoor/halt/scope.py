"""What an order is about, and whether it covers a release.

A release halt denies the content digest too, so that the same bytes under another version stay
halted. Scopes are text on the wire because a person types and reads them.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from firedoor.errors import Malformed
from firedoor.identity import checked_name


class ScopeKind(Enum):
    """How wide an order reaches."""

    RELEASE = "release"
    DIGEST = "digest"
    PRODUCT = "product"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Subject:
    """The facts of one release that a scope may name.

    `files` is empty until the manifest itself is held; a digest scope then still meets `content`.
    """

    product: str
    version: str
    content: bytes
    files: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Scope:
    """One parsed scope; the fields that its kind does not use are empty."""

    kind: ScopeKind
    product: str = ""
    version: str = ""
    digest: bytes = b""

    @property
    def text(self) -> str:
        """The scope as a person types it."""
        if self.kind is ScopeKind.DIGEST:
            return f"digest:{self.digest.hex()}"
        release = f"{self.product}=={self.version}"
        return {ScopeKind.RELEASE: release, ScopeKind.PRODUCT: self.product}.get(
            self.kind, "everything"
        )

    def covers(self, subject: Subject, contents: Collection[bytes]) -> bool:
        """Whether the order reaches `subject`; `contents`: digests that its release halt denies."""
        match self.kind:
            case ScopeKind.EVERYTHING:
                return True
            case ScopeKind.PRODUCT:
                return subject.product == self.product
            case ScopeKind.RELEASE:
                named = (subject.product, subject.version) == (self.product, self.version)
                return named or subject.content in contents
            case ScopeKind.DIGEST:
                return subject.content == self.digest or self.digest in subject.files


_DIGEST = re.compile(r"digest:([0-9a-f]{64})")


def parse_scope(text: str) -> Scope:
    """The scope that a person or a record names.

    `PRODUCT==VERSION`, `PRODUCT`, `everything` or `digest:` and 64 hex digits. A product cannot be
    called `everything`; publish refuses that name.

    Raises:
        Malformed: anything else.
    """
    if text == "everything":
        return Scope(ScopeKind.EVERYTHING)
    if text.startswith("digest:"):
        found = _DIGEST.fullmatch(text)
        if found is None:
            raise Malformed("scope", wanted="digest: and 64 hex digits", got=repr(text[:80]))
        return Scope(ScopeKind.DIGEST, digest=bytes.fromhex(found[1]))
    product, mark, version = text.partition("==")
    checked_name("scope's product", product)
    if not mark:
        return Scope(ScopeKind.PRODUCT, product=product)
    return Scope(
        ScopeKind.RELEASE, product=product, version=checked_name("scope's version", version)
    )
