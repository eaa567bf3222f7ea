"""Machines that do not exist, announced by whoever is on the LAN."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from firedoor.dice import Dice
from firedoor.errors import Unavailable
from firedoor.identity import PeerId, Role
from firedoor.limits import HINTS_MAX, NEIGHBOURS_DIALLED_MAX, ROSTER_MAX
from firedoor.runtime.host.connections import Connections
from firedoor.runtime.host.dialling import Neighbours
from firedoor.runtime.keys.key_files import read_key_file
from tests.attacks.burdens import descriptors_of, operators_address, pid_of, running
from tests.live.lab import LabSite, tell
from tests.unit.endpoint import Endpoint
from tests.unit.origin_bench import Bench

FAKE_MIRRORS, FAKE_AGENTS = 60, 2300

# The last in every order that an attacker can foresee.
REAL = PeerId("f" * 32)

# Dials of addresses that were never proved, with some that have just ended.
UNPROVED_MAX = 32

# For an address that has held before.
SOON_S = 6.0

# For two dozen addresses that never answer, and then the one that does.
SPAN_S = 19.0


def fake(number: int) -> PeerId:
    return PeerId(f"{number:032x}")


class Abyss:
    """A listener on every address of loopback that takes connections and never answers."""

    def __init__(self) -> None:
        self.open = self.most = 0
        self.changed = asyncio.Event()
        self.port = 0

    async def __aenter__(self) -> "Abyss":
        self._server = await asyncio.start_server(self._swallow, "0.0.0.0", 0, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _swallow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most = max(self.most, self.open)
        self.changed.set()
        with suppress(ConnectionError):
            await reader.read()
        self.open -= 1
        writer.close()


@asynccontextmanager
async def door() -> AsyncIterator[tuple[tuple[str, int], asyncio.Event]]:
    """The address of a real mirror, and whether somebody has knocked."""
    knocked = asyncio.Event()

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        knocked.set()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[:2], knocked
    finally:
        server.close()
        await server.wait_closed()


def look_around(
    bench: Bench,
    folder: Path,
    story: Callable[[Neighbours, Abyss], Coroutine[Any, Any, None]],
    *,
    dialled_max: int = NEIGHBOURS_DIALLED_MAX,
) -> None:
    """A story with what a program knows of its neighbours while it dials them."""

    async def live(one: Endpoint) -> None:
        neighbours = Neighbours(one.host, one.host.connections, Dice(1), dialled_max=dialled_max)
        async with Abyss() as abyss:
            running = asyncio.ensure_future(neighbours.run())
            try:
                await story(neighbours, abyss)
            finally:
                running.cancel()
                await asyncio.wait({running})
                await one.host.client.close()

    Endpoint(bench, folder / "endpoint").run(live)


# --- what is known of neighbours -----------------------------------------------------------------


@pytest.mark.slow
def test_a_real_mirror_is_dialled_beside_two_dozen_that_never_answer(
    bench: Bench, tmp_path: Path
) -> None:
    async def story(neighbours: Neighbours, abyss: Abyss) -> None:
        for number in range(24):
            neighbours.found(fake(number), (f"127.0.1.{number + 1}", abyss.port), Role.MIRROR)
        async with door() as (address, knocked):
            neighbours.found(REAL, address, Role.MIRROR)
            async with asyncio.timeout(SPAN_S):
                await knocked.wait()

    look_around(bench, tmp_path, story)


@pytest.mark.parametrize("role", [Role.AGENT, Role.MIRROR])
def test_a_real_mirror_finds_a_place_among_as_many_fakes_as_are_remembered(
    bench: Bench, tmp_path: Path, role: Role
) -> None:
    async def story(neighbours: Neighbours, abyss: Abyss) -> None:
        for number in range(HINTS_MAX):
            host = f"127.1.{number // 250}.{number % 250 + 1}"
            neighbours.found(fake(number), (host, abyss.port), role)
        neighbours.found(REAL, ("127.0.0.1", 9), Role.MIRROR)
        assert ("127.0.0.1", 9) in neighbours.addresses(Role.MIRROR)

    look_around(bench, tmp_path, story)


@pytest.mark.slow
def test_a_mirror_dials_few_at_once_of_those_that_never_answer(
    bench: Bench, tmp_path: Path
) -> None:
    async def story(neighbours: Neighbours, abyss: Abyss) -> None:
        for number in range(300):
            host = f"127.1.{number // 250}.{number % 250 + 1}"
            neighbours.found(fake(number), (host, abyss.port), Role.AGENT)
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                while abyss.most <= UNPROVED_MAX:
                    abyss.changed.clear()
                    await abyss.changed.wait()
        assert 0 < abyss.most <= UNPROVED_MAX

    look_around(bench, tmp_path, story, dialled_max=ROSTER_MAX)


def test_a_proved_address_is_kept_beside_one_that_somebody_else_claims(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, spoof = ("127.0.0.1", 1), ("127.0.1.1", 2)
    dials: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    monkeypatch.setattr("firedoor.runtime.host.dialling.PROVED_S", 0.0, raising=False)

    async def dial(_: Connections, host: str, port: int, *args: object, **named: object) -> None:
        dials.put_nowait((host, port))
        if (host, port) != real:
            raise Unavailable(host, why="it is not who it says")
        # Held for a while, and then it is lost.
        await asyncio.sleep(0.01)

    monkeypatch.setattr(Connections, "dial", dial)

    async def story(neighbours: Neighbours, abyss: Abyss) -> None:
        neighbours.found(REAL, real, Role.MIRROR)
        async with asyncio.timeout(5):
            while await dials.get() != real:
                pass
        neighbours.found(REAL, spoof, Role.MIRROR)
        async with asyncio.timeout(5):
            while await dials.get() != spoof:
                pass
        with suppress(TimeoutError):
            async with asyncio.timeout(8):
                while await dials.get() != real:
                    pass
                return
        pytest.fail("the proved address is dialled no more")

    look_around(bench, tmp_path, story)


# --- real programs -------------------------------------------------------------------------------


Place = tuple[tuple[str, ...], str]


def place_before_all(site: LabSite) -> Place:
    """The attacker's machine; its address is below all others, for whoever asks in order."""
    return site._lab.host("attacker")


@asynccontextmanager
async def spoofed(site: LabSite, place: Place, mirrors: int, agents: int) -> AsyncIterator[None]:
    """So many that do not exist are announced on the LAN."""
    prefix, address = place
    fleet = read_key_file(site.fleet / "keys" / "operator.key", str).fleet
    words = (sys.executable, "-m", "tests.attacks.spoofer", address, fleet)
    async with running(*words, str(mirrors), str(agents), prefix=prefix) as said:
        async with asyncio.timeout(25):
            assert await said.readline() == b"said\n"
        yield


async def until_connected(site: LabSite, name: str, span_s: float = SPAN_S) -> None:
    async def is_in() -> bool:
        status = await site.status(name)
        return status is not None and any(peer["role"] == "mirror" for peer in status["peers"])

    await site.until(f"{name} has found its mirror", is_in, span_s)


@pytest.mark.live
def test_a_fresh_endpoint_finds_its_mirror_among_many_that_do_not_exist(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        place = place_before_all(site)
        await site.begin()
        [name] = await site.enrol(1, ["kiosk"])
        async with spoofed(site, place, FAKE_MIRRORS, FAKE_AGENTS):
            await site.start(name)
            await until_connected(site, name)

    tell(tmp_path, story)


@pytest.mark.live
def test_an_endpoint_that_starts_anew_comes_back_among_many_that_do_not_exist(
    tmp_path: Path,
) -> None:
    async def story(site: LabSite) -> None:
        place = place_before_all(site)
        await site.begin()
        [name] = await site.enrol(1, ["kiosk"])
        await site.start(name)
        await until_connected(site, name)
        async with spoofed(site, place, FAKE_MIRRORS, FAKE_AGENTS):
            await site.kill(name, signal.SIGTERM)
            await site.start(name)
            await until_connected(site, name, SOON_S)

    tell(tmp_path, story)


@pytest.mark.live
def test_a_mirror_keeps_its_descriptors_among_endpoints_that_do_not_exist(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        place = place_before_all(site)
        await site.begin()
        pid = pid_of(site, "mirror")
        most = descriptors_of(pid) + 2 * UNPROVED_MAX
        async with spoofed(site, place, 0, FAKE_AGENTS):

            async def is_dialling_many() -> bool:
                return descriptors_of(pid) > most

            with suppress(Unavailable):
                await site.until("it dials many", is_dialling_many, 10)
            assert descriptors_of(pid) <= most

    tell(tmp_path, story)


@pytest.mark.live
def test_a_halt_reaches_a_site_by_an_operator_who_looks_for_its_mirror(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        place = place_before_all(site)
        await site.begin()
        async with spoofed(site, place, FAKE_MIRRORS, 0):
            plain = json.loads((site.fleet / "keys" / "halt-1.key").read_text("utf-8"))
            key = tmp_path / "halt.key"
            # One that names no origin: what mDNS finds is all that it has.
            found_by = {"origin": "", "mdns": [operators_address()]}
            key.write_text(json.dumps(plain | found_by), "utf-8")
            words = ("--reason", "it is bad", "--key", str(key), "--wait", "15")
            await site.firedoor("halt", "kiosk", *words)
            await site.until_halted(["mirror"])

    tell(tmp_path, story)
