"""One warm process that forks all others, so that a thousand of them fit on one machine.

A forked process has about 5 MB of its own where one that starts by itself has 45 (FACTS.md,
Footprint). It is an operating system's process like any other: own sockets, threads, files.

Protocol, a line each way: a JSON table `{"kind", "index", ...}` starts a child, the answer is its
process id; `{"kind": "end"}` ends all children, the answer is 0. End of input does the same, so
that nothing outlives a harness that was killed.
"""

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest.mock import patch

# What a child needs is here before it is born; uvloop is imported late elsewhere.
import uvloop

from agent import program as agent_program
from agent.daemon import AgentDaemon
from firedoor.halt.order import Halt
from firedoor.identity import PeerId
from firedoor.trust.keys import register
from firedoor.wire.messages import Message, Recorded, decode_message, encode_message
from tests.bench import attacker, attacks, nats, star
from tests.bench.mailbox import Voice
from tests.bench.restless import be_restless

ROOT = Path(__file__).resolve().parents[2]

# A child that was asked to end has this long; then it is killed.
END_S = 20.0

Order = dict[str, Any]

# Of the one endpoint that a forked process is.
VOICES: list[Voice] = []


class Witness(AgentDaemon):
    """The endpoint's daemon, and what it did and when told to the harness.

    It overrides what the host calls and reads what status shows; nothing else is different.
    """

    def __init__(self, *facts: Any) -> None:
        """The daemon, whose receipts are overheard."""
        super().__init__(*facts)
        note = self.receipts._note

        def overheard(halt: Halt, *, is_enforced: bool) -> None:
            note(halt, is_enforced=is_enforced)
            if is_enforced:
                VOICES[0].tell("enforced", halt.id.hex(), self.host.clock.now())

        self.receipts._note = overheard  # type: ignore[method-assign]  # one ear more

    def on_message(self, message: Message, sender: PeerId) -> None:
        """An order that is durable here was closed and recorded at known times."""
        super().on_message(message, sender)
        if isinstance(message, Recorded) and sender == self.host.settings.me:
            for order in message.ids:
                times = self.host.order_times[order.hex()]
                assert times.recorded_at is not None
                VOICES[0].tell("recorded", order.hex(), times.closed_at, times.recorded_at)

    def changed(self) -> None:
        """A product has moved on; it is ready when it rests."""
        super().changed()
        rows = [each.health() for each in self.installers]
        if rows and self.host.node.is_reconciled and all(row.phase == "idle" for row in rows):
            for row in rows:
                VOICES[0].tell("ready", row.version or "-")

    def on_synced(self, peer: PeerId) -> None:
        """The gates may have opened."""
        super().on_synced(peer)
        VOICES[0].tell("synced")


def run_agent(order: Order) -> None:
    """The endpoint with the settings at `order["config"]`, until it is asked to end."""
    VOICES.append(Voice(Path(order["mailbox"]), order["index"]))
    arguments = argparse.Namespace(config=Path(order["config"]), check_config=False, command=None)
    with patch.object(agent_program, "AgentDaemon", Witness):
        agent_program._start(arguments)


def run_restless(order: Order) -> None:
    """The same endpoint, which never rests and whose clocks lie: see restless.py."""

    def tell(word: str, label: str, at: float) -> None:
        VOICES[0].tell(word, label, at)

    be_restless(lambda: run_agent(order), tell, order)


KINDS: dict[str, Callable[[Order], None]] = {
    "agent": run_agent,
    "restless": run_restless,
    "star-server": star.run_server,
    "star-client": star.run_client,
    "nats": nats.run_subscriber,
    "attacker": attacker.run_attacker,
    "attack": attacks.run_attack,
}


class ForkServer:
    """The harness's side. While entered; leaving ends every child."""

    def __init__(self, log: Path) -> None:
        self._log = log
        # A run that is ended asks while a thread of it may still be asking.
        self._asking = threading.Lock()
        self._process: subprocess.Popen[str]

    def __enter__(self) -> "ForkServer":
        """Start the server; it answers once it is warm."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.fork_server", str(self._log)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                # Ctrl-C is for the harness, which then ends what it has started.
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every child, then the server."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(2 * END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        """The server's own process id."""
        return self._process.pid

    def fork(self, kind: str, index: int, **facts: object) -> int:
        """Start one child; its process id."""
        return self._ask({"kind": kind, "index": index, **facts})

    def end_all(self) -> None:
        """End every child that was forked so far."""
        self._ask({"kind": "end"})

    def _ask(self, order: Order) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._asking:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the fork server ended; its last words are in {self._log}")
        return int(answer)


def _warm_up() -> None:
    register()
    decode_message(encode_message(Recorded((bytes(32),))))
    uvloop.new_event_loop().close()
    gc.collect()
    # A collection in a child would else write to every object's header, and copy every page.
    gc.freeze()


def _become(order: Order, log: Path) -> None:
    """Be a child, for ever."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        there = os.open(log, os.O_WRONLY | os.O_APPEND)
        for file, target in ((nothing, 0), (there, 1), (there, 2)):
            os.dup2(file, target)
        KINDS[order["kind"]](order)
        code = 0
    # Whatever it was must not run on into the server's own loop.
    except BaseException:  # noqa: BLE001  # as said above
        traceback.print_exc()
    finally:
        os._exit(code)


def _end(children: set[int]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + END_S
    while children:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        children.discard(pid)
        if pid == 0:
            if time.monotonic() > deadline:
                for each in children:
                    os.kill(each, signal.SIGKILL)
                deadline += END_S
            time.sleep(0.01)


def main() -> None:
    """Serve until the input ends. A child that ended by itself stays unreaped until all are ended,
    so that no process id here can be another's by then.
    """
    log = Path(sys.argv[1])
    _warm_up()
    children: set[int] = set()
    try:
        for line in sys.stdin:
            order = json.loads(line)
            if order["kind"] == "end":
                _end(children)
                pid = 0
            else:
                pid = os.fork()
                if pid == 0:
                    _become(order, log)
                children.add(pid)
            print(pid, flush=True)
    finally:
        _end(children)


if __name__ == "__main__":
    main()
