"""Sets of orders converge whatever the path, and the brake agrees with a stupid twin."""

from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from firedoor.halt.brake import Brake, Gate
from firedoor.halt.envelope import seal
from firedoor.halt.order import BeaconPayload, Halt, HaltPayload, ResumePayload
from firedoor.halt.orderset import OrderSet
from firedoor.halt.scope import Subject, parse_scope
from firedoor.identity import FleetId
from firedoor.trust.keys import Authority, RoleKeys

FLEET = FleetId("0a" * 16)
SEEDS = {kind: sha256(kind.encode()).digest() for kind in ("halt", "resume", "beacon")}
KEYIDS = {kind: sha256(seed).hexdigest() for kind, seed in SEEDS.items()}
AUTHORITY = Authority(
    fleet=FLEET,
    targets_version=1,
    roles={
        kind: RoleKeys(threshold=1, keys={KEYIDS[kind]: SigningKey(seed).verify_key.encode()})
        for kind, seed in SEEDS.items()
    },
    is_fresh=True,
)


def sealed(kind: str, payload: object) -> tuple[bytes, bytes]:
    return seal(kind, payload, fleet=FLEET, keys={KEYIDS[kind]: SEEDS[kind]})


def nonce(number: int) -> bytes:
    return number.to_bytes(16, "big")


HALTS = [sealed("halt", HaltPayload(1, nonce(n), f"app=={n}", 4, 0, "")) for n in range(12)]
LIFTED = {
    resume: {HALTS[number][0], HALTS[number + 3][0]}
    for number in range(6)
    for resume in [
        sealed(
            "resume",
            ResumePayload(1, nonce(number), (HALTS[number][0], HALTS[number + 3][0]), 0, "fixed"),
        )
    ]
}
ORDERS = [*HALTS, *LIFTED]

some_orders = st.lists(st.sampled_from(ORDERS), max_size=30)


def admitted(orders: list[tuple[bytes, bytes]]) -> OrderSet:
    held = OrderSet()
    for _, record in orders:
        held.admit(record, AUTHORITY)
    return held


def facts_of(held: OrderSet) -> tuple[object, ...]:
    held.let_resumes_act()
    return held.ids(), held.digest(), held.records_but(()), held.in_force()


@settings(deadline=None)
@given(orders=some_orders, data=st.data())
def test_a_set_is_the_same_in_any_order_and_with_any_repeats(
    orders: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    repeats = data.draw(st.lists(st.sampled_from(orders), max_size=10)) if orders else []
    shuffled = data.draw(st.permutations(orders + repeats))
    assert facts_of(admitted(list(shuffled))) == facts_of(admitted(orders))


@settings(deadline=None)
@given(some_orders, some_orders, some_orders)
def test_peers_that_give_what_the_others_lack_hold_the_union(
    first: list[tuple[bytes, bytes]],
    second: list[tuple[bytes, bytes]],
    third: list[tuple[bytes, bytes]],
) -> None:
    peers = [admitted(first), admitted(second), admitted(third)]
    # A line of three; twice along it, every order has reached both ends.
    for left, right in ((0, 1), (1, 2), (0, 1), (1, 2)):
        for giver, taker in ((left, right), (right, left)):
            for record in peers[giver].records_but(peers[taker].ids()):
                peers[taker].admit(record, AUTHORITY)
    assert facts_of(peers[0]) == facts_of(peers[1]) == facts_of(peers[2])
    assert set(peers[0].ids()) == {order_id for order_id, _ in first + second + third}


@settings(deadline=None)
@given(some_orders, some_orders)
def test_digests_are_equal_exactly_when_the_sets_are(
    first: list[tuple[bytes, bytes]], second: list[tuple[bytes, bytes]]
) -> None:
    are_equal = {order_id for order_id, _ in first} == {order_id for order_id, _ in second}
    assert (admitted(first).digest() == admitted(second).digest()) == are_equal


@settings(deadline=None)
@given(some_orders, some_orders, st.booleans(), st.booleans())
def test_in_force_is_every_halt_that_no_named_resume_lifts(
    orders: list[tuple[bytes, bytes]],
    named: list[tuple[bytes, bytes]],
    is_named_first: bool,  # noqa: FBT001  # Hypothesis draws it
    may_resume: bool,  # noqa: FBT001  # Hypothesis draws it
) -> None:
    ids = tuple(sorted({order_id for order_id, _ in named}))
    beacon = sealed("beacon", BeaconPayload(1, ids))[1]
    held = OrderSet() if is_named_first else admitted(orders)
    held.name(beacon, AUTHORITY)
    for _, record in orders:
        held.admit(record, AUTHORITY)

    wanted = {order[0] for order in orders if order in HALTS}
    for order in orders:
        if may_resume and order in named:
            wanted -= LIFTED.get(order, set())
    if may_resume:
        held.let_resumes_act()
    assert [halt.id for halt in held.in_force()] == sorted(wanted)


DIGESTS = [sha256(bytes([number])).digest() for number in range(4)]
PRODUCTS = ("app", "lib")
VERSIONS = ("1", "2")

digests = st.sampled_from(DIGESTS)
subjects = st.builds(
    Subject,
    product=st.sampled_from(PRODUCTS),
    version=st.sampled_from(VERSIONS),
    content=digests,
    files=st.frozensets(digests, max_size=3),
)
scopes = st.one_of(
    st.just("everything"),
    st.sampled_from(PRODUCTS),
    st.tuples(st.sampled_from(PRODUCTS), st.sampled_from(VERSIONS)).map("==".join),
    digests.map(lambda digest: "digest:" + digest.hex()),
)


# So that every level reaches every release; who may reach what is in test_brake.py.
TWO_KEYS = frozenset({"one", "other"})


@st.composite
def halt_lists(draw: st.DrawFn) -> list[tuple[str, Halt]]:
    """Some halts, each with its scope as text for the twin."""
    parts = st.tuples(scopes, st.integers(1, 7), st.frozensets(digests, max_size=2))
    return [
        (
            text,
            Halt(
                nonce(number),
                "halt",
                b"",
                TWO_KEYS,
                TWO_KEYS,
                "",
                0,
                parse_scope(text),
                level,
                contents,
            ),
        )
        for number, (text, level, contents) in enumerate(draw(st.lists(parts, max_size=6)))
    ]


def level_of_the_twin(
    halts: list[tuple[str, Halt]], learned: list[Subject], subject: Subject
) -> int:
    """The level by going through everything that is known, each time anew."""
    level = 0
    for text, halt in halts:
        is_covered = False
        if text in ("everything", subject.product):
            is_covered = True
        elif text.startswith("digest:"):
            denied = text.removeprefix("digest:")
            is_covered = denied in {digest.hex() for digest in {subject.content, *subject.files}}
        elif "==" in text:
            is_covered = text == f"{subject.product}=={subject.version}"
            is_covered |= subject.content in halt.contents
            for release in learned:
                if text == f"{release.product}=={release.version}":
                    is_covered |= release.content == subject.content
        if is_covered and halt.level > level:
            level = halt.level
    return level


@given(halt_lists(), st.lists(subjects, max_size=5), subjects, st.integers(0, 5))
def test_the_level_of_the_brake_is_that_of_its_stupid_twin(
    halts: list[tuple[str, Halt]], learned: list[Subject], subject: Subject, turn: int
) -> None:
    brake = Brake()
    for release in learned[:turn]:
        brake.learn(release)
    brake.set_halts(halt for _, halt in halts)
    for release in learned[turn:]:
        brake.learn(release)
    wanted = level_of_the_twin(halts, learned, subject)
    assert brake.level(subject) == wanted
    assert [gate for gate in Gate if not brake.permits(gate, subject)] == list(Gate)[:wanted]
