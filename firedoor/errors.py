"""Every error that Firedoor raises on purpose, sorted by who is to blame.

* `Refused`: they broke a rule; asking again does not help.
* `Unavailable`: the world failed; asking again may help.
* `Halted`: our own policy says no.

Misuse by our own code is `ValueError` or `RuntimeError`, never one of these. An error carries
facts as attributes and a stable `code`; its message is one sentence: what, wanted, got.
"""

from typing import ClassVar


class FiredoorError(Exception):
    """The root of the tree; never raised itself."""

    code: ClassVar[str] = "error"


class Refused(FiredoorError):
    """Somebody else broke a rule; never raised itself."""

    code: ClassVar[str] = "refused"


class Malformed(Refused):
    """Bytes or a text that do not have the form they must have."""

    code: ClassVar[str] = "malformed"

    def __init__(self, what: str, *, wanted: str, got: str) -> None:
        super().__init__(f"{what}: wanted {wanted}, got {got}")
        self.what = what
        self.wanted = wanted
        self.got = got


class Untrusted(Refused):
    """A signature, certificate or digest that does not prove what it must prove."""

    code: ClassVar[str] = "untrusted"

    def __init__(self, what: str, *, wanted: str, got: str) -> None:
        super().__init__(f"{what}: wanted {wanted}, got {got}")
        self.what = what
        self.wanted = wanted
        self.got = got


class Stale(Refused):
    """Something signed that is older than what is already trusted."""

    code: ClassVar[str] = "stale"

    def __init__(self, role: str, *, trusted: int, offered: int) -> None:
        super().__init__(f"{role}: wanted version {trusted} or newer, got {offered}")
        self.role = role
        self.trusted = trusted
        self.offered = offered


class TooLarge(Refused):
    """More bytes or items than the limit that stands in limits.py."""

    code: ClassVar[str] = "too-large"

    def __init__(self, what: str, *, limit: int, size: int) -> None:
        super().__init__(f"{what}: wanted at most {limit}, got {size}")
        self.what = what
        self.limit = limit
        self.size = size


class ShareFull(TooLarge):
    """A signing key's share of the order set is full until its orders are committed."""

    code: ClassVar[str] = "share-full"


class Denied(Refused):
    """A peer says no; the message is its own sentence."""

    code: ClassVar[str] = "denied"


class Unavailable(FiredoorError):
    """The world failed: a peer did not answer, a disk is full. Trying again may help."""

    code: ClassVar[str] = "unavailable"

    def __init__(self, what: str, *, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why


class Absent(Unavailable):
    """A peer has answered that it does not have this."""

    code: ClassVar[str] = "absent"


class NoRoom(Unavailable):
    """This machine cannot keep it: its disk is full or refuses. Another peer would not help."""

    code: ClassVar[str] = "no-room"


class Halted(FiredoorError):
    """The brake says no."""

    code: ClassVar[str] = "halted"

    def __init__(self, what: str, *, level: int) -> None:
        super().__init__(f"{what} is halted at level {level}")
        self.what = what
        self.level = level


def sentence_of(error: FiredoorError | OSError) -> str:
    """What went wrong, for a person; an OSError by the file that it is about."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
