"""A site in virtual time whose endpoints decide everything: orders, leases, fetches, installs.

* Each endpoint is a `Node` and an `Install` as the agent runs them, below one origin; nothing in
  them knows that time is virtual. Orders, beacons and leases are really signed.
* A message takes LATENCY, a disk and a check the spans below. Every endpoint runs 1.0; 2.0 is
  published at the start, and an operator halts it at `halt_at`.
* What must never be: an activation of a release after its halt was admitted at that endpoint.

It simulates no loss, no liars and no swarm between endpoints: all pieces come from the origin.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b, sha256

from agent.decisions.effects import (
    Activate,
    Candidate,
    Check,
    Download,
    InstallEffect,
    LookAgain,
    Note,
    Quarantine,
    Release,
    Sight,
    Stage,
    StepBack,
    Undo,
    Unstage,
)
from agent.decisions.install import Install
from agent.decisions.lifecycle import Entry, Phase
from agent.decisions.verdict import Verdict
from firedoor.dice import Dice
from firedoor.effects import Cut, DrawNonce, Drop, Effect, Fetch, Keep, Send, SignLease
from firedoor.errors import Halted
from firedoor.halt.brake import Gate
from firedoor.halt.envelope import seal
from firedoor.halt.lease import LeasePayload
from firedoor.halt.merkle import root_of
from firedoor.halt.order import BeaconPayload, HaltPayload
from firedoor.halt.scope import Subject
from firedoor.identity import FleetId, Peer, PeerId, Role
from firedoor.node.node import Node
from firedoor.node.settings import NodeSettings
from firedoor.pieces.inventory import Bits, PieceMap
from firedoor.trust.keys import Authority, RoleKeys, key_of
from firedoor.units import Instant, Span
from firedoor.wire.messages import Message
from simulator.clockwork import Clockwork
from simulator.network import LATENCY

FLEET = FleetId("5a" * 16)
ORIGIN = PeerId("f" * 32)
PRODUCT = "app"
SEEDS = {"halt": bytes([1]) * 32, "resume": bytes([2]) * 32, "beacon": bytes([3]) * 32}

# How long these take: an order to the disk, a release to its place, one round of checks, and all
# pieces of a release.
RECORDING = Span(0.005)
STAGING = Span(0.4)
CHECKING = Span(1.0)
PIECES = Span(0.5)

# By then every turn to step back has come.
END = Instant(600.0)


def _role(name: str) -> RoleKeys:
    key = key_of(SEEDS[name])
    return RoleKeys(1, {key.keyid: bytes.fromhex(key.keyval["public"])})


AUTHORITY = Authority(FLEET, 1, {name: _role(name) for name in SEEDS}, is_fresh=True)


def _signed(role: str, payload: object) -> bytes:
    key = key_of(SEEDS[role])
    kind = "lease" if isinstance(payload, LeasePayload) else role
    return seal(kind, payload, fleet=FLEET, keys={key.keyid: SEEDS[role]})[1]


def _release(version: str) -> tuple[Release, Subject]:
    content = sha256(version.encode()).digest()
    counter = int(version.partition(".")[0])
    return Release(version, content.hex()), Subject(PRODUCT, version, content, counter=counter)


OLD, OLD_SUBJECT = _release("1.0")
NEW, NEW_SUBJECT = _release("2.0")
SUBJECTS = {OLD.manifest: OLD_SUBJECT, NEW.manifest: NEW_SUBJECT}


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `activated`: endpoints that switched to 2.0; `on_old`: that end with 1.0.

    `halted_s`, `back_s`: from the halt until the last endpoint had admitted it, and was back.
    """

    digest: str
    activated: int
    on_old: int
    halted_s: float
    back_s: float
    breaches: tuple[str, ...]


@dataclass(slots=True)
class Machine:
    """One endpoint: what decides, and what stands on its disk."""

    node: Node
    install: Install
    active: Release = OLD
    staged: dict[str, Release] = field(default_factory=lambda: {OLD.manifest: OLD})
    is_busy: bool = False
    wakes_at: Instant | None = None
    halted_at: Instant | None = None
    activated: int = 0


class Rollout:
    """One origin and its endpoints. `halt_at`: when 2.0 is halted; level 6."""

    def __init__(self, endpoints: int, seed: int, halt_at: float) -> None:
        self._clockwork = Clockwork()
        self._dice = Dice(seed)
        self._halt_at = halt_at
        self._trace = blake2b(digest_size=16)
        self._breaches: list[str] = []
        self._nonces = 0
        self._back_at = Instant(0.0)
        is_origin = NodeSettings(ORIGIN, Role.MIRROR, "branch", 7443, is_origin=True)
        self._origin = Node(is_origin, self._dice, self._now)
        self._machines: dict[PeerId, Machine] = {}
        for number in range(endpoints):
            me = PeerId(f"{number:032x}")
            node = Node(NodeSettings(me, Role.AGENT, "branch", 7443), self._dice, self._now)
            entry = Entry(Phase.IDLE, OLD.manifest, OLD.manifest)
            install = Install(PRODUCT, entry, self._dice, self._now)
            self._machines[me] = Machine(node, install)

    def run(self) -> Report:
        """Publish, halt, and wait until nothing is left to do."""
        self._start()
        self._clockwork.later(Span(self._halt_at), self._halt)
        self._clockwork.run(self._is_over, END)
        machines = self._machines.values()
        halts = [END if one.halted_at is None else one.halted_at for one in machines]
        return Report(
            self._trace.hexdigest(),
            sum(one.activated > 0 for one in machines),
            sum(one.active == OLD for one in machines),
            max(halts) - self._halt_at,
            max(0.0, self._back_at - self._halt_at),
            tuple(self._breaches),
        )

    def _start(self) -> None:
        self._do(ORIGIN, self._origin.trust(AUTHORITY, self._now))
        self._do(ORIGIN, self._origin.learn(SUBJECTS, self._now))
        whole = Bits(1)
        whole.set(0)
        self._do(ORIGIN, self._origin.want(_pieces(NEW), whole, self._now))
        mirror = Peer(ORIGIN, Role.MIRROR, "branch")
        for me, machine in self._machines.items():
            self._do(me, machine.node.trust(AUTHORITY, self._now))
            self._do(me, machine.node.learn(SUBJECTS, self._now))
            peer = Peer(me, Role.AGENT, "branch")
            met = self._origin.connected(peer, host="h", is_upstream=False, now=self._now)
            self._do(ORIGIN, met)
            met = machine.node.connected(mirror, host="h", is_upstream=True, now=self._now)
            self._do(me, met)
            self._look(me)

    def _halt(self) -> None:
        scope = f"{PRODUCT}=={NEW.version}"
        record = _signed("halt", HaltPayload(1, bytes(16), scope, 6, 0, "it is bad"))
        self._do(ORIGIN, self._origin.submit(record, None, self._now))

    def _is_over(self) -> bool:
        return self._now > self._halt_at and all(
            one.halted_at is not None and one.active == OLD and not one.is_busy
            for one in self._machines.values()
        )

    # --- nodes ---------------------------------------------------------------------------------

    def _node(self, me: PeerId) -> Node:
        return self._origin if me == ORIGIN else self._machines[me].node

    def _receive(self, me: PeerId, sender: PeerId, message: Message) -> None:
        self._do(me, self._node(me).receive(message, sender, self._now))

    def _do(self, me: PeerId, effects: list[Effect]) -> None:
        node = self._node(me)
        for effect in effects:
            self._note(me, type(effect).__name__)
            match effect:
                case Send(peer, message):
                    receive = partial(self._receive, peer, me, message)  # type: ignore[arg-type]  # Send holds any message
                    self._clockwork.later(LATENCY, receive)
                case Keep(order, _):
                    self._clockwork.later(RECORDING, self._recorded, me, order)
                case DrawNonce():
                    self._nonces += 1
                    nonce = self._nonces.to_bytes(32)
                    self._do(me, node.ask_lease(nonce, self._now))
                case SignLease(nonces):
                    ids = node.committed_ids()
                    payload = LeasePayload(1, 0, 1, 0, len(ids), root_of(ids), nonces)
                    self._do(me, node.answer(_signed("beacon", payload), self._now))
                case Fetch(number, _, manifest):
                    self._clockwork.later(PIECES, self._fetched, me, number, manifest)
                case Cut():
                    if me != ORIGIN:
                        self._machines[me].halted_at = self._now
                case Drop(peer, why):
                    self._breaches.append(f"{me[:4]} drops {peer[:4]}: {why}")
                case _:
                    pass
        self._set_timer(me)
        self._look(me)

    def _recorded(self, me: PeerId, order: bytes) -> None:
        node = self._node(me)
        self._do(me, node.recorded(order))
        if me == ORIGIN:
            record = _signed("beacon", BeaconPayload(1, node.committed_ids()))
            self._do(me, node.take_beacon(record, None, self._now))

    def _fetched(self, me: PeerId, number: int, manifest: str) -> None:
        node = self._node(me)
        self._do(me, node.fetched(number, manifest, (0,), self._now))
        self._do(me, node.finished(number, self._now))

    def _set_timer(self, me: PeerId) -> None:
        due = self._node(me).next_wakeup(self._now)
        machine = self._machines.get(me)
        if due is None or (machine is not None and machine.wakes_at == due):
            return
        if machine is not None:
            machine.wakes_at = due
        # A due time that has passed is met at the next instant, not at once for ever.
        self._clockwork.later(Span(max(0.001, due - self._now)), self._wake, me)

    def _wake(self, me: PeerId) -> None:
        machine = self._machines.get(me)
        if machine is not None:
            machine.wakes_at = None
        due = self._node(me).next_wakeup(self._now)
        if due is not None and due <= self._now:
            self._do(me, self._node(me).wake(self._now))

    # --- installs ------------------------------------------------------------------------------

    def _look(self, me: PeerId) -> None:
        """Let an endpoint obey and plan, unless a step of it is under way."""
        machine = self._machines.get(me)
        if machine is None or machine.is_busy:
            return
        effects = machine.install.obey(self._sight(machine))
        self._perform(me, machine, effects, then=self._plan)

    def _plan(self, me: PeerId, machine: Machine) -> None:
        effects = machine.install.plan(self._sight(machine))
        is_over = any(isinstance(effect, LookAgain) for effect in effects)
        self._perform(me, machine, effects, then=None if is_over else self._again)

    def _again(self, me: PeerId, machine: Machine) -> None:
        del machine
        self._look(me)

    def _sight(self, machine: Machine) -> Sight:
        node = machine.node
        return Sight(
            self._now,
            machine.active,
            tuple(machine.staged.values()),
            levels={each: node.level_of(each) for each in machine.staged},
            contents={each: SUBJECTS[each].content for each in machine.staged},
            may_run=frozenset(each for each in machine.staged if node.may_run(each)),
            candidate=self._candidate(machine),
            neighbours=len(self._machines),
        )

    def _candidate(self, machine: Machine) -> Candidate | None:
        node, manifest = machine.node, NEW.manifest
        is_whole = node.is_whole(manifest)
        gate = Gate.INSTALL if is_whole else Gate.FETCH
        if machine.active == NEW or not node.permits(gate, manifest):
            return None
        may_start = node.may_start(gate, manifest, self._now)
        return Candidate(
            NEW,
            is_whole,
            is_fetching=node.is_fetching(manifest),
            lease_error="" if may_start else str(node.no_lease()),
        )

    def _perform(  # noqa: C901  # one case an effect, flat
        self,
        me: PeerId,
        machine: Machine,
        effects: list[InstallEffect],
        then: Callable[[PeerId, Machine], None] | None,
    ) -> None:
        """Execute effects in order; what takes time goes on with the rest when it is over."""
        machine.is_busy = True
        for at, effect in enumerate(effects):
            rest = effects[at + 1 :]
            self._note(me, repr(effect))
            match effect:
                case Note(entry):
                    machine.install.noted(entry)
                case Download(release):
                    self._do(me, machine.node.want(_pieces(release), Bits(1), self._now))
                case Stage(release):
                    end = partial(self._staged, me, machine, release, rest, then)
                    self._clockwork.later(STAGING, end)
                    return
                case Check(release):
                    self._clockwork.later(CHECKING, partial(self._checked, me, machine, release))
                    return
                case Activate(release):
                    self._activate(me, machine, release)
                case StepBack(release):
                    machine.active = release
                    self._back_at = self._now
                case Undo(before):
                    machine.active = before if before is not None else OLD
                case Unstage(release) | Quarantine(release):
                    machine.staged.pop(release.manifest, None)
                case LookAgain(span):
                    self._clockwork.later(span, self._look, me)
                case _:
                    pass
        machine.is_busy = False
        if then is not None:
            then(me, machine)

    def _staged(
        self,
        me: PeerId,
        machine: Machine,
        release: Release,
        rest: list[InstallEffect],
        then: Callable[[PeerId, Machine], None] | None,
    ) -> None:
        if machine.node.permits(Gate.INSTALL, release.manifest):
            machine.staged[release.manifest] = release
            machine.install.staged()
            self._perform(me, machine, rest, then)
            return
        error = Halted(release.manifest[:12], level=Gate.INSTALL)
        self._perform(me, machine, machine.install.failed(error, self._now), then=self._again)

    def _activate(self, me: PeerId, machine: Machine, release: Release) -> None:
        before, machine.active = machine.active, release
        machine.activated += 1
        node = machine.node
        is_permitted = node.permits(Gate.INSTALL, release.manifest)
        if not is_permitted:
            self._breaches.append(f"{me[:4]} activates what is halted")
        may_start = node.may_start(Gate.ACTIVATE, release.manifest, self._now)
        follow = machine.install.activated(
            release,
            before,
            is_permitted=is_permitted,
            lease_error="" if may_start else str(node.no_lease()),
        )
        self._perform(me, machine, follow, then=None)

    def _checked(self, me: PeerId, machine: Machine, release: Release) -> None:
        is_over = machine.node.level_of(release.manifest) >= Gate.KEEP
        verdict = Verdict.UNDECIDED if is_over else Verdict.WELL
        effects = machine.install.checked(release, verdict, "", self._sight(machine))
        self._perform(me, machine, effects, then=self._again)

    @property
    def _now(self) -> Instant:
        return self._clockwork.now

    def _note(self, me: PeerId, text: str) -> None:
        self._trace.update(f"{self._now!r} {me} {text}\n".encode())


def _pieces(release: Release) -> PieceMap:
    digest = sha256(release.manifest.encode()).digest()
    return PieceMap(release.manifest, (digest,), (1000,), (0, 1000))
