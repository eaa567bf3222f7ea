"""Leases for a site that no network reaches: a stick takes its nonces out and brings the answers.

* A mirror with nobody above it keeps the last nonce of each peer. A stick takes them all; beyond
  the gap their Merkle root is asked for as any other nonce is.
* The mirror need remember nothing of what a stick has taken: the nonces come home beside the
  answer. A stick can withhold a lease, and make it older, but mint none, for the path of each nonce
  must lead to what the origin signed.
* Whoever is away when the stick comes home gets its answer when it asks the next time.

Source: halt/README.md, The lease (24 h for an air-gapped site, fed by stick).
"""

from collections.abc import Iterable

from firedoor.errors import Malformed, Untrusted
from firedoor.halt.merkle import AGAIN, climb, paths_of, root_of
from firedoor.identity import PeerId
from firedoor.limits import PATH_STEPS_MAX
from firedoor.wire.messages import LeaseGiven
from firedoor.wire.stick import CARRIED_MAX, Answer, Question


def root_of_questions(questions: Iterable[Question]) -> bytes:
    """What stands for all these nonces beyond the gap."""
    return root_of([one.nonce for one in questions])


class CarriedLeases:
    """The nonces that wait for a stick at one mirror, and the answers that the last one brought."""

    __slots__ = ("_answers", "_asked")

    def __init__(self) -> None:
        self._asked: dict[PeerId, bytes] = {}
        self._answers: dict[PeerId, LeaseGiven] = {}

    def ask(self, peer: PeerId, nonce: bytes) -> LeaseGiven | None:
        """`peer` wants a lease; the answer to what it asked before, if a stick has brought one."""
        self._asked.pop(peer, None)
        self._asked[peer] = nonce
        if len(self._asked) > CARRIED_MAX:
            del self._asked[next(iter(self._asked))]
        return self._answers.get(peer)

    def questions(self) -> tuple[Question, ...]:
        """What a stick takes, by peer."""
        return tuple(Question(peer, self._asked[peer]) for peer in sorted(self._asked))

    def take(self, answer: Answer, nonces: bytes) -> dict[PeerId, LeaseGiven]:
        """The answer of each peer; `nonces`: the root that the origin signed.

        Raises:
            Untrusted: it is no answer to these questions.
            Malformed: a path that is none, or is too long.
        """
        if climb(root_of_questions(answer.questions), answer.path) != nonces:
            raise Untrusted("lease", wanted="the answer to these nonces", got="another")
        paths = paths_of([one.nonce for one in answer.questions])
        given = {
            PeerId(one.peer): LeaseGiven(answer.record, (*steps, AGAIN, *answer.path))
            for one, steps in zip(answer.questions, paths, strict=True)
        }
        longest = max((len(each.path) for each in given.values()), default=0)
        if longest > PATH_STEPS_MAX:
            raise Malformed("lease", wanted=f"a path of {PATH_STEPS_MAX}", got=str(longest))
        self._answers = given
        return given
