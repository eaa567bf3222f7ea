"""Plays a transcript: commands to a few nodes, and what each of them then does, in order.

A transcript is text. A block is a command, `----`, and the lines that it brings about:

    connect agent mirror
    ----
    agent -> mirror  Hello
    mirror -> agent  Hello

Nodes are real cores under a clock that the transcript sets; messages wait until `deliver`.
To take what happens now as what is wanted: `REWRITE=1 python -m pytest tests/transcripts`.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

from firedoor.dice import Dice
from firedoor.effects import (
    AddSignature,
    Cut,
    DrawNonce,
    Drop,
    Effect,
    Fetch,
    Keep,
    KeepActed,
    KeepBeacon,
    KeepDecision,
    KeepKnown,
    KeepVouched,
    Send,
    SignLease,
    Tell,
)
from firedoor.halt.brake import Gate
from firedoor.halt.carried import root_of_questions
from firedoor.halt.envelope import countersigned, seal
from firedoor.halt.lease import AIR_GAPPED, STANDARD, LeasePayload
from firedoor.halt.merkle import climb, root_of
from firedoor.halt.order import BeaconPayload, HaltPayload, ResumePayload
from firedoor.halt.reach import RECORD_BYTES_MAX, Decision, Known
from firedoor.halt.scope import Subject
from firedoor.identity import FleetId, Peer, PeerId, Role
from firedoor.node.node import Node
from firedoor.node.settings import NodeSettings
from firedoor.pieces.inventory import Bits, PieceMap
from firedoor.trust.keys import Authority, RoleKeys, key_of
from firedoor.units import KIB, Instant
from firedoor.wire.codec import decode
from firedoor.wire.messages import Countersign, Logged, Message, OrderIds, Orders, Recorded
from firedoor.wire.stick import Answer, Question

FLEET = FleetId("0a" * 16)
SEEDS = {"halt": [bytes([1]) * 32], "resume": [bytes([2]) * 32], "beacon": [bytes([3]) * 32]}


def role_keys(seeds: list[bytes]) -> RoleKeys:
    keys = [key_of(seed) for seed in seeds]
    return RoleKeys(len(keys), {key.keyid: bytes.fromhex(key.keyval["public"]) for key in keys})


# The beacon key of a mirror that has the trait `key`.
OTHER_BEACON = bytes([5]) * 32

AUTHORITY = Authority(FLEET, 1, {name: role_keys(seeds) for name, seeds in SEEDS.items()}, True)  # noqa: FBT003  # is_fresh

NEW_HALT = bytes([4]) * 32
TURNED = replace(
    AUTHORITY, targets_version=2, roles={**AUTHORITY.roles, "halt": role_keys([NEW_HALT])}
)


class World:
    """The nodes of one transcript and what is on its way between them."""

    def __init__(self) -> None:
        self._now = Instant(0.0)
        self._nodes: dict[str, Node] = {}
        self._peers: dict[str, Peer] = {}
        self._names: dict[PeerId, str] = {}
        self._orders: dict[bytes, str] = {}
        self._records: dict[str, bytes] = {}
        self._upstream: set[tuple[str, str]] = set()
        self._waiting: deque[tuple[str, str, Message]] = deque()
        self._lines: list[str] = []
        self._nonces = 0
        self._authority = AUTHORITY
        self._signs: dict[str, bytes] = {}
        self._questions: tuple[Question, ...] = ()
        self._answer: Answer

    def play(self, command: str) -> list[str]:
        """Do one command; the lines of what came of it."""
        self._lines = []
        name, *words = command.split()
        act: Callable[..., None] = getattr(self, f"_{name}")
        act(*words)
        return self._lines or ["nothing"]

    # --- commands ------------------------------------------------------------------------------

    def _node(self, name: str, role: str, *traits: str) -> None:
        """`node NAME mirror|agent [origin] [alone] [key] [gap]`: it starts and trusts the keys.

        `key`: the mirror has the second beacon key; `gap`: it is of an air-gapped site.
        """
        peer = Peer(PeerId(sha256(name.encode()).hexdigest()[:32]), Role(role), "branch")
        settings = NodeSettings(peer.id, peer.role, "branch", 7443, is_origin="origin" in traits)
        terms = AIR_GAPPED if "gap" in traits else STANDARD
        is_alone = "alone" in traits or ("gap" in traits and peer.role is Role.MIRROR)
        settings = replace(settings, has_mirrors=not is_alone, lease=terms)
        self._signs[name] = OTHER_BEACON if "key" in traits else SEEDS["beacon"][0]
        if "key" in traits:
            settings = replace(settings, beacon_key=key_of(OTHER_BEACON).keyid)
        node = self._nodes[name] = Node(settings, Dice(1), self._now)
        self._peers[name], self._names[peer.id] = peer, name
        self._do(name, node.trust(self._authority, self._now))

    def _beacons(self, threshold: str) -> None:
        """`beacons N`: the fleet has two beacon keys, and N must sign; for nodes from here on."""
        keys = role_keys([SEEDS["beacon"][0], OTHER_BEACON]).keys
        roles = {**AUTHORITY.roles, "beacon": RoleKeys(int(threshold), keys)}
        self._authority = replace(AUTHORITY, roles=roles)

    def _operator(self, name: str, at: str) -> None:
        """`operator NAME NODE`: a person with a key talks to a node, and holds no order."""
        peer = Peer(PeerId(sha256(name.encode()).hexdigest()[:32]), Role.OPERATOR, "branch")
        self._peers[name], self._names[peer.id] = peer, name
        node = self._nodes[at]
        self._do(at, node.connected(peer, host="h", is_upstream=False, now=self._now))

    def _connect(self, one: str, other: str) -> None:
        """`connect ONE OTHER`: ONE dialled OTHER; a mirror that is dialled is upstream."""
        for me, peer, is_dialler in ((one, other, True), (other, one, False)):
            is_mirror = self._peers[peer].role is Role.MIRROR
            is_agent = self._peers[me].role is Role.AGENT
            is_upstream = is_mirror and (is_dialler or is_agent)
            node = self._nodes[me]
            self._do(
                me,
                node.connected(self._peers[peer], host="h", is_upstream=is_upstream, now=self._now),
            )

    def _disconnect(self, one: str, other: str) -> None:
        kept = [each for each in self._waiting if {each[0], each[1]} != {one, other}]
        self._waiting = deque(kept)
        for me, peer in ((one, other), (other, one)):
            self._do(me, self._nodes[me].disconnected(self._peers[peer].id, self._now))

    def _deliver(self, count: str = "1000") -> None:
        """`deliver [COUNT]`: so many messages arrive, in the order in which they were sent."""
        for _ in range(int(count)):
            if not self._waiting:
                return
            sender, to, message = self._waiting.popleft()
            if to not in self._nodes:
                continue  # A person hears it.
            node = self._nodes[to]
            self._do(to, node.receive(message, self._peers[sender].id, self._now))

    def _halt(self, number: str, scope: str, level: str, at: str) -> None:
        """`halt NUMBER SCOPE LEVEL NODE`: an operator hands an order to a node."""
        nonce = int(number).to_bytes(16, "big")
        payload = HaltPayload(1, nonce, scope, int(level), 0, "bad")
        self._give("halt", f"halt-{number}", payload, at)

    def _hand(self, number: str, name: str, at: str) -> None:
        """`hand NUMBER OPERATOR NODE`: a person hands over a halt that is known already."""
        record = self._records[f"halt-{number}"]
        message = Orders((record,))
        self._do(at, self._nodes[at].receive(message, self._peers[name].id, self._now))

    def _pass(self, order: str, at: str) -> None:
        """`pass ORDER NODE`: it comes there by file."""
        self._do(at, self._nodes[at].submit(self._records[order], None, self._now))

    def _newhalt(self, number: str, scope: str, level: str, at: str) -> None:
        """`newhalt NUMBER SCOPE LEVEL NODE`: the same, by the key that the fleet has turned to."""
        nonce = int(number).to_bytes(16, "big")
        payload = HaltPayload(1, nonce, scope, int(level), 0, "bad")
        self._give("halt", f"halt-{number}", payload, at, NEW_HALT)

    def _refresh(self, name: str) -> None:
        """`refresh NODE`: newer metadata comes, with the same keys."""
        fresh = replace(self._authority, snapshot_version=self._authority.snapshot_version + 1)
        self._do(name, self._nodes[name].trust(fresh, self._now))

    def _turn(self, name: str) -> None:
        """`turn NODE`: metadata comes in which the halt role has another key."""
        self._do(name, self._nodes[name].trust(TURNED, self._now))

    def _resume(self, number: str, halt: str, at: str) -> None:
        """`resume NUMBER HALT NODE`."""
        halts = (next(key for key, name in self._orders.items() if name == halt),)
        payload = ResumePayload(1, int(number).to_bytes(16, "big"), halts, 0, "mended")
        self._give("resume", f"resume-{number}", payload, at)

    def _give(
        self,
        kind: str,
        name: str,
        payload: HaltPayload | ResumePayload,
        at: str,
        seed: bytes | None = None,
    ) -> None:
        keys = {key_of(each).keyid: each for each in ([seed] if seed else SEEDS[kind])}
        order_id, record = seal(kind, payload, fleet=FLEET, keys=keys)
        self._orders[order_id], self._records[name] = name, record
        self._do(at, self._nodes[at].submit(record, None, self._now))

    def _recorded(self, name: str, order: str) -> None:
        """`recorded NODE ORDER`: the host has it on its disk."""
        order_id = next(key for key, value in self._orders.items() if value == order)
        self._do(name, self._nodes[name].recorded(order_id))

    def _beacon(self, at: str, *orders: str) -> None:
        """`beacon NODE ORDER...`: the origin names these."""
        ids = tuple(sorted(key for key, name in self._orders.items() if name in orders))
        seed = self._signs[at]
        keys = {key_of(seed).keyid: seed}
        _, record = seal("beacon", BeaconPayload(1, ids), fleet=FLEET, keys=keys)
        self._do(at, self._nodes[at].take_beacon(record, None, self._now))

    def _cosign(self, sender: str, to: str) -> None:
        """`cosign FROM TO`: the origin's own beacon, which names nothing, is to be signed there."""
        seed = SEEDS["beacon"][0]
        keys = {key_of(seed).keyid: seed}
        record = seal("beacon", BeaconPayload(1, ()), fleet=FLEET, keys=keys)[1]
        self._waiting.append((sender, to, Countersign(record)))

    def _learn(self, name: str, release: str) -> None:
        self._do(name, self._nodes[name].learn(dict([subject(release)]), self._now))

    def _hold(self, name: str, release: str) -> None:
        """`hold NODE RELEASE`: it is there whole."""
        pieces, bits = payload_of(release)
        for piece in range(bits.size):
            bits.set(piece)
        self._do(name, self._nodes[name].want(pieces, bits, self._now))

    def _want(self, name: str, release: str) -> None:
        self._do(name, self._nodes[name].want(*payload_of(release), self._now))

    def _at(self, seconds: str) -> None:
        """`at SECONDS`: time goes on, and every node does what is due."""
        self._now = Instant(float(seconds))
        for name, node in self._nodes.items():
            due = node.next_wakeup(self._now)
            if due is not None and due <= self._now:
                self._do(name, node.wake(self._now))

    def _show(self, name: str, release: str) -> None:
        """`show NODE RELEASE`: what it may do with it, and what it knows of orders."""
        node = self._nodes[name]
        manifest, _ = subject(release)
        gates = [gate.name.lower() for gate in Gate if node.permits(gate, manifest)]
        self._lines.append(f"may {', '.join(gates) or 'nothing'}")
        held = [self._orders[each] for each in node.orders.ids()]
        force = [self._orders[halt.id] for halt in node._gates.brake.halts]
        self._lines.append(f"holds {', '.join(held) or 'no order'}; in force {', '.join(force)}")

    def _start(self, name: str, release: str) -> None:
        """`start NODE RELEASE`: what it may begin; a lease that is wanting is sought."""
        gates, manifest = self._nodes[name]._gates, subject(release)[0]
        able = [
            gate.name.lower()
            for gate in (Gate.FETCH, Gate.INSTALL)
            if gates.may_start(gate, manifest, self._now)
        ]
        self._lines.append(f"may start {', '.join(able) or 'nothing'}")

    def _lose(self, sender: str, to: str) -> None:
        """`lose FROM TO`: what is on its way there never comes, as if TO kept it for itself."""
        kept = [each for each in self._waiting if each[:2] != (sender, to)]
        self._waiting = deque(kept)

    def _take(self, name: str) -> None:
        """`take MIRROR`: a stick takes along what the site asks."""
        self._questions = self._nodes[name]._leasing.carried.questions()
        self._lines.append(
            f"asked by {', '.join(self._names[PeerId(e.peer)] for e in self._questions)}"
        )

    def _sign(self, origin: str) -> None:
        """`sign ORIGIN`: the stick's nonces are signed there."""
        record = self._lease(origin, climb(root_of_questions(self._questions), ()))
        self._answer = Answer(record, (), self._questions)

    def _bring(self, name: str) -> None:
        """`bring MIRROR`: the stick comes home."""
        self._do(name, self._nodes[name].bring(self._answer, self._now))

    def _why(self, name: str) -> None:
        """`why NODE`: why it has no lease."""
        self._lines.append(self._nodes[name]._leasing.lease.why or "it has one")

    def _reach(self, name: str, *traits: str) -> None:
        """`reach NODE`: it starts anew, with nothing in memory but what `node` gives it."""
        role = "agent" if self._peers[name].role is Role.AGENT else "mirror"
        self._node(name, role, *traits)

    # --- effects -------------------------------------------------------------------------------

    def _do(self, name: str, effects: list[Effect]) -> None:  # noqa: C901, PLR0912  # one case an effect
        for effect in effects:
            match effect:
                case Send(peer, message):
                    to = self._names[peer]
                    assert isinstance(message, Message)
                    self._waiting.append((name, to, message))
                    self._lines.append(f"{name} -> {to}  {self._words(message)}")
                case Keep(order, _) | KeepActed(order) | Cut(order):
                    kind = type(effect).__name__
                    self._lines.append(f"{name}: {kind} {self._orders[order]}")
                case DrawNonce():
                    self._nonces += 1
                    self._lines.append(f"{name}: draws a nonce")
                    nonce = self._nonces.to_bytes(32, "big")
                    self._do(name, self._nodes[name].ask_lease(nonce, self._now))
                case SignLease(nonces):
                    self._lines.append(f"{name}: SignLease")
                    self._do(name, self._nodes[name].answer(self._lease(name, nonces), self._now))
                case AddSignature(peer, record):
                    self._lines.append(f"{name}: AddSignature")
                    keys = {key_of(self._signs[name]).keyid: self._signs[name]}
                    signed = countersigned(record, fleet=FLEET, keys=keys)
                    self._do(name, [Send(peer, Countersign(signed))])
                case KeepDecision(record):
                    said = decode(Decision, record, what="decision", limit=RECORD_BYTES_MAX)
                    decided = self._orders[said.order]
                    self._lines.append(f"{name}: KeepDecision its reach of {decided}")
                case KeepKnown(record):
                    known = decode(Known, record, what="release", limit=RECORD_BYTES_MAX)
                    self._lines.append(f"{name}: KeepKnown {known.product} {known.version}")
                case KeepVouched(orders):
                    names = " ".join(self._orders[each] for each in orders)
                    self._lines.append(f"{name}: KeepVouched {names}")
                case KeepBeacon():
                    self._lines.append(f"{name}: KeepBeacon")
                case Fetch(number, peer, manifest, first, last):
                    what = f"{release_of(manifest)} {first}-{last}"
                    self._lines.append(f"{name}: Fetch {number} {self._names[peer]} {what}")
                case Drop(peer, why):
                    self._lines.append(f"{name}: drops {self._names[peer]}: {why}")
                case Tell(event):
                    self._lines.append(f"{name}: tells {event}")
                case _:
                    self._lines.append(f"{name}: {effect}")

    def _lease(self, name: str, nonces: bytes) -> bytes:
        ids = self._nodes[name].committed_ids()
        payload = LeasePayload(1, 0, 1, 0, len(ids), root_of(ids), nonces)
        keys = {key_of(self._signs[name]).keyid: self._signs[name]}
        return seal("lease", payload, fleet=FLEET, keys=keys)[1]

    def _words(self, message: Message) -> str:
        kind = type(message).__name__
        match message:
            case Orders(records):
                names = [name for name, record in self._records.items() if record in records]
                return f"{kind} {' '.join(names)}"
            case OrderIds(ids) | Recorded(ids) | Logged(ids):
                return f"{kind} {' '.join(self._orders[each] for each in ids)}".strip()
            case _:
                return kind


def subject(release: str) -> tuple[str, Subject]:
    """The manifest id and the facts of `PRODUCT==VERSION`."""
    product, _, version = release.partition("==")
    content = sha256(release.encode()).digest()
    return content.hex(), Subject(product, version, content)


def release_of(manifest: str) -> str:
    names = [f"{product}=={version}" for product in ("app", "map") for version in ("1", "2", "3")]
    return next(name for name in names if subject(name)[0] == manifest)


def payload_of(release: str) -> tuple[PieceMap, Bits]:
    """Four pieces of half a megabyte."""
    size = 512 * KIB
    digests = tuple(sha256(f"{release} {number}".encode()).digest() for number in range(4))
    offsets = tuple(range(0, 5 * size, size))
    return PieceMap(subject(release)[0], digests, (size,) * 4, offsets), Bits(4)
