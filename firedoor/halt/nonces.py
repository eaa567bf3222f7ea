"""Nonces on their way up and leases on their way down: one batch a mirror, one signature a fleet.

* What children ask within a window becomes one Merkle root, which is asked for as if it were a
  nonce of one's own; the answer's path is made longer for each child. So a mirror passes 32 bytes
  up, whatever its site's size, and the origin signs at most ten times a second.
* A relay can withhold or delay an answer, which makes a lease older, but it can mint none.
* One nonce is open for each peer; a newer one takes its place.

Source: halt/README.md, The lease.
"""

from firedoor.errors import Malformed, Untrusted
from firedoor.halt.lease import ASK_AGAIN_SPAN
from firedoor.halt.merkle import AGAIN, climb, paths_of, root_of
from firedoor.identity import PeerId
from firedoor.limits import PATH_STEPS_MAX
from firedoor.units import Instant, Span, after

# What a site's endpoints ask within this goes up together; it also bounds the origin's signatures.
BATCH_SPAN = Span(0.1)


class NonceRelay:
    """The open batches of one node.

    `window`: how long a batch is open for others to join; `patience`: how long its answer may take;
    `is_urgent`: whether somebody waits for the batch that was flushed last.
    """

    __slots__ = (
        "_due",
        "_flushed_at",
        "_gone",
        "_is_waited_for",
        "_patience",
        "_sent",
        "_sent_at",
        "_waiting",
        "_window",
        "is_urgent",
    )

    def __init__(self, window: Span, patience: Span = ASK_AGAIN_SPAN) -> None:
        self._window = window
        self._patience = patience
        self._waiting: dict[PeerId, bytes] = {}
        self._due: Instant | None = None
        self._sent: dict[PeerId, bytes] = {}
        self._sent_at = Instant(0.0)
        self._flushed_at: Instant | None = None
        self._gone: set[PeerId] = set()
        self._is_waited_for = False
        self.is_urgent = False

    def take(
        self, peer: PeerId, nonce: bytes, now: Instant, *, patience: Span, is_urgent: bool = True
    ) -> None:
        """`peer` asks. `patience`: how long it can wait here for others to ask too.

        `is_urgent`: something waits for the answer, so that no batch further up should wait either.
        """
        self._waiting[peer] = nonce
        self._is_waited_for |= is_urgent
        due = after(now, max(self._window, patience))
        self._due = due if self._due is None else min(self._due, due)

    def forget(self, peer: PeerId) -> None:
        """`peer` is gone. What was sent stays as it was: its root is what will be answered."""
        self._waiting.pop(peer, None)
        self._gone.add(peer)

    def ask_again(self) -> None:
        """Whoever was asked is gone: what was sent there waits for the next."""
        sent = {peer: nonce for peer, nonce in self._sent.items() if peer not in self._gone}
        self._waiting = sent | self._waiting
        self._sent = {}
        if self._waiting:
            self._due = Instant(0.0)

    def flush(self, now: Instant) -> bytes | None:
        """The root to ask for now; None: nothing is due, or the last batch is unanswered."""
        due = self.next_wakeup()
        if due is None or now < due:
            return None
        self._sent, self._waiting = self._waiting, {}
        self._sent_at = self._flushed_at = now
        self._due, self.is_urgent, self._gone = None, self._is_waited_for, set()
        self._is_waited_for = False
        return root_of(self._nonces())

    def answered(
        self, nonces: bytes, path: tuple[bytes, ...]
    ) -> list[tuple[PeerId, tuple[bytes, ...]]]:
        """The path of each child's nonce; `path` is that of the batch's root to `nonces`.

        Raises:
            Malformed: a step that is none, or a path that is too long.
            Untrusted: it is not the answer to the batch that is open.
        """
        if not self._sent:
            return []
        if len(path) > PATH_STEPS_MAX:
            raise Malformed("lease", wanted=f"a path of {PATH_STEPS_MAX}", got=str(len(path)))
        if climb(root_of(self._nonces()), path) != nonces:
            raise Untrusted("lease", wanted="the answer to my nonces", got="another")
        paths = zip(sorted(self._sent), paths_of(self._nonces()), strict=True)
        longer = [(peer, (*steps, AGAIN, *path)) for peer, steps in paths if peer not in self._gone]
        self._sent = {}
        # A child would end the conversation over a path that it may not take.
        return [(peer, steps) for peer, steps in longer if len(steps) <= PATH_STEPS_MAX]

    @property
    def is_open(self) -> bool:
        """Whether a batch is out and not answered yet."""
        return bool(self._sent)

    def next_wakeup(self) -> Instant | None:
        """When `flush` is due; None: nobody asks."""
        if self._due is None:
            return None
        unanswered = after(self._sent_at, self._patience) if self._sent else self._due
        # No two batches within one window: so the origin's signatures have their bound.
        apart = after(self._flushed_at, BATCH_SPAN) if self._flushed_at is not None else self._due
        return max(self._due, unanswered, apart)

    def _nonces(self) -> list[bytes]:
        return [self._sent[peer] for peer in sorted(self._sent)]
