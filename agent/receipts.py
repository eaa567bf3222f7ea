"""This endpoint's signed word on each halt: when it was recorded, when it was enforced.

A receipt goes to every mirror within a second, and again to each mirror that comes. Once a halt is
enforced, the programs of `[hooks] on_order` run with the order on their standard input.
"""

import asyncio
import json
import shlex
import sys
from collections.abc import Callable, Iterable

from firedoor.dice import Dice
from firedoor.halt.order import LEVEL_NARROW, Halt
from firedoor.halt.receipt import LocalState, ReceiptPayload, seal_receipt
from firedoor.halt.scope import Subject
from firedoor.identity import PeerId
from firedoor.node.rosters import span_of_recording
from firedoor.runtime.host.host import Host
from firedoor.runtime.logs import log
from firedoor.wire.messages import Receipts

# A hook is a short message to something local; what takes longer is ended.
HOOK_SPAN_S = 30.0

# How often an endpoint looks whether a halt is enforced, where nothing tells.
LOOK_S = 0.2


class ReceiptWriter:
    """The receipts of one endpoint.

    `pending`: whether something is still to be done for a halt; `active`, `staged`: manifests of
    what runs and of what lies on the disk; `on_order`: commands.
    """

    def __init__(
        self,
        host: Host,
        seed: bytes,
        *,
        pending: Callable[[], bool],
        active: Callable[[], Iterable[str]],
        staged: Callable[[], Iterable[str]],
        on_order: tuple[str, ...],
    ) -> None:
        self._host = host
        self._seed = seed
        self._pending = pending
        self._active = active
        self._staged = staged
        self._on_order = on_order
        self._dice = Dice(host.clock.seed())
        self._instance = host.clock.nonce()[:16]
        self._said: dict[bytes, ReceiptPayload] = {}
        self._found: dict[bytes, LocalState] = {}
        self._hooking = asyncio.Lock()

    def closed(self) -> None:
        """The brake has changed: note what is here of what is halted before that is undone."""
        halts = self._host.node.orders.in_force()
        self._found = {
            halt.id: self._found[halt.id] if halt.id in self._found else self._had(halt)
            for halt in halts
        }
        self._said = {key: each for key, each in self._said.items() if key in self._found}

    def recorded(self, order_id: bytes, *, is_new: bool = True) -> None:
        """An order is durable here; if it is a halt, say so and follow it to its end.

        `is_new`: it came just now, and was not taken back from the disk.
        """
        # What was lifted before it came here asks for nothing, and tells nobody.
        halts = {halt.id: halt for halt in self._host.node.orders.in_force()}
        order = halts.get(order_id)
        if order is None or order_id in self._said:
            return
        self._note(order, is_enforced=not self._pending())
        self._host.start(self._follow(order, self._on_order if is_new else ()))

    def repeat(self, mirror: PeerId) -> None:
        """A mirror has come: what is in force is said to it too."""
        in_force = {halt.id for halt in self._host.node.orders.in_force()}
        self._said = {key: each for key, each in self._said.items() if key in in_force}
        for payload in self._said.values():
            self._host.send(mirror, Receipts((self._sealed(payload),)))

    def catch_up(self) -> None:
        """After a start: what an earlier run recorded has a receipt of this one too."""
        self.closed()
        for halt in self._host.node.orders.in_force():
            if self._host.node.is_recorded(halt.id):
                self.recorded(halt.id, is_new=False)

    async def _follow(self, halt: Halt, hooks: tuple[str, ...]) -> None:
        # The site's cores are busy with recording just now, and receipts are for people.
        await asyncio.sleep(span_of_recording(self._host.node.sessions, self._dice))
        self._say(halt.id)
        while self._pending():
            await asyncio.sleep(LOOK_S)
        said = self._said.get(halt.id)
        if said is None:
            return  # It was lifted meanwhile.
        if not said.enforced_at:
            self._note(halt, is_enforced=True)
            self._say(halt.id)
        log("halt-enforced", order=halt.id.hex()[:12], had=said.had)
        # One at a time, however many orders a machine hears of at once.
        async with self._hooking:
            for command in hooks:
                await self._run_hook(command, halt)

    async def _run_hook(self, command: str, halt: Halt) -> None:
        table = {
            "id": halt.id.hex(),
            "kind": halt.kind,
            "scope": halt.scope.text,
            "level": halt.level,
            "reason": halt.reason,
            "issued_at": halt.issued_at,
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *shlex.split(command), stdin=asyncio.subprocess.PIPE, stdout=sys.stderr
            )
            try:
                async with asyncio.timeout(HOOK_SPAN_S):
                    await process.communicate(json.dumps(table).encode())
            finally:
                if process.returncode is None:
                    process.kill()
        except TimeoutError:
            log("hook-ended", level="error", command=command, why=f"over {HOOK_SPAN_S:.0f} s")
        except (OSError, ValueError) as error:
            log("hook-failed", level="error", command=command, why=str(error), do="mend on_order")
        else:
            if process.returncode != 0:
                log("hook-failed", level="error", command=command, code=process.returncode)

    def _note(self, halt: Halt, *, is_enforced: bool) -> None:
        now, known = self._host.clock.unix_ms(), self._said.get(halt.id)
        had = self._found.get(halt.id, LocalState.NOTHING)
        if is_enforced and had is LocalState.ACTIVE:
            is_left = self._had(halt) is not LocalState.ACTIVE
            kept = (
                LocalState.STILL_RUNS if halt.level >= LEVEL_NARROW and not halt.is_drill else had
            )
            had = LocalState.ROLLED_BACK if is_left else kept
        self._said[halt.id] = ReceiptPayload(
            version=1,
            order=halt.id,
            instance=self._instance,
            recorded_at=known.recorded_at if known is not None else now,
            enforced_at=now if is_enforced else 0,
            had=had.value,
        )

    def _say(self, halt: bytes) -> None:
        payload = self._said.get(halt)
        if payload is None:
            return
        record = self._sealed(payload)
        for connection in self._host.connections.open.values():
            if connection.is_upstream:
                self._host.send(connection.peer.id, Receipts((record,)))

    def _sealed(self, payload: ReceiptPayload) -> bytes:
        authority = self._host.catalogue.authority
        assert authority is not None  # Without keys no order was admitted.
        return seal_receipt(payload, fleet=authority.fleet, seed=self._seed)

    def _had(self, halt: Halt) -> LocalState:
        """The most that is here of what the halt covers."""
        node = self._host.node
        covered = {
            manifest for manifest, subject in node.releases.items() if self._covers(halt, subject)
        }
        if covered & set(self._active()):
            return LocalState.ACTIVE
        if covered & set(self._staged()):
            return LocalState.INSTALLED
        has_pieces = any(node.progress_of(each)[0] for each in covered)
        return LocalState.PIECES if has_pieces else LocalState.NOTHING

    def _covers(self, halt: Halt, subject: Subject) -> bool:
        return self._host.node.is_covered(halt, subject)
