"""One product on one endpoint: what is installed, checked, taken back, and what a crash leaves."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agent.decisions.lifecycle import Phase
from agent.install.tombstones import Tombstones
from firedoor.halt.brake import Gate
from firedoor.halt.order import Halt
from firedoor.halt.scope import parse_scope
from firedoor.units import Span
from tests.unit.endpoint import DEADLINE_S, Endpoint
from tests.unit.origin_bench import Bench, PowerCutError

# Well or not by what the release holds, as a kiosk's own check would be.
FAILS = "false"

pytestmark = pytest.mark.slow


@pytest.fixture
def endpoint(bench: Bench, tmp_path: Path) -> Endpoint:
    return Endpoint(bench, tmp_path / "endpoint")


def runs(version: str) -> Callable[[Endpoint], Coroutine[Any, Any, None]]:
    async def story(endpoint: Endpoint) -> None:
        await endpoint.until_runs(version)

    return story


def folders(tmp_path: Path, name: str = "versions") -> list[str]:
    """The versions that stand in one of the handler's folders."""
    return sorted(
        path.name.partition("-")[0] for path in (tmp_path / "endpoint" / "root" / name).iterdir()
    )


def test_the_newest_release_is_installed_and_proves_well(endpoint: Endpoint) -> None:
    endpoint.publish("1.0", "true")
    endpoint.run(runs("1.0"))
    endpoint.publish("2.0", "true")
    endpoint.run(runs("2.0"))
    assert endpoint.installer.counts.activations == 1


def test_a_release_that_fails_its_check_is_taken_back_and_not_tried_again(
    endpoint: Endpoint,
) -> None:
    endpoint.publish("1.0")
    endpoint.run(runs("1.0"))
    endpoint.publish("2.0", FAILS)

    async def story(endpoint: Endpoint) -> None:
        await endpoint.until(lambda: endpoint.installer.counts.rolled_back == 1)
        await endpoint.until_runs("1.0")

    endpoint.run(story)

    async def again(endpoint: Endpoint) -> None:
        endpoint.publish("3.0")
        await endpoint.until_runs("1.0")
        await endpoint.host.catalogue.refresh(endpoint._bench.origin.get)
        assert endpoint.installer._offers.best() is None

    endpoint.run(again)
    assert endpoint.installer.counts.activations == 0


def test_a_release_for_another_handler_is_passed_over(endpoint: Endpoint) -> None:
    endpoint.publish("1.0")
    endpoint.publish("2.0", handler="feed")
    endpoint.run(runs("1.0"))
    endpoint.run(rests)
    assert endpoint.state == ("1.0", "idle")


def test_the_first_release_ever_is_left_running_though_it_fails(endpoint: Endpoint) -> None:
    endpoint.publish("1.0", FAILS)

    async def story(endpoint: Endpoint) -> None:
        await endpoint.until(lambda: "nothing good" in endpoint.installer.health().detail)

    endpoint.run(story)
    assert endpoint.state == ("1.0", "idle")


def test_a_failed_release_is_never_the_way_back(endpoint: Endpoint) -> None:
    endpoint.publish("1.0", FAILS)
    endpoint.run(runs("1.0"))
    endpoint.publish("2.0")
    endpoint.run(runs("2.0"))

    async def story(endpoint: Endpoint) -> None:
        await endpoint.until_runs("2.0")
        await endpoint.halt("app==2.0", 6)
        await endpoint.until(lambda: "nothing good" in endpoint.installer.health().detail)

    endpoint.run(story)
    assert endpoint.state == ("2.0", "idle")


def test_versions_that_nothing_leads_back_to_are_removed(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    for version in ("1.0", "2.0"):
        endpoint.publish(version)
        endpoint.run(runs(version))
    endpoint.publish("3.0")

    async def story(endpoint: Endpoint) -> None:
        await endpoint.until(lambda: folders(tmp_path) == ["2.0", "3.0"])

    endpoint.run(story)


# --- orders ------------------------------------------------------------------------------------


def test_a_halt_of_level_6_does_not_wait_for_a_running_check(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.publish("1.0")
    endpoint.run(runs("1.0"))
    endpoint.publish("2.0", "sleep 60")

    async def story(endpoint: Endpoint) -> None:
        await endpoint.until(lambda: endpoint.state == ("2.0", "checking"))
        await endpoint.halt("app==2.0", 6)
        await endpoint.until_runs("1.0")
        await endpoint.until((tmp_path / "endpoint" / "root" / "quarantine").is_dir)

    endpoint.run(story)
    assert folders(tmp_path, "quarantine") == ["2.0"]


def test_a_halt_of_a_release_that_was_well_takes_it_back_to_the_one_before(
    endpoint: Endpoint,
) -> None:
    for version in ("1.0", "2.0"):
        endpoint.publish(version)
        endpoint.run(runs(version))

    async def story(endpoint: Endpoint) -> None:
        await endpoint.until_runs("2.0")
        await endpoint.halt("app==2.0", 6)
        await endpoint.until_runs("1.0")

    endpoint.run(story)
    endpoint.run(runs("1.0"))


def test_an_endpoint_has_to_obey_while_it_stages_what_is_halted(endpoint: Endpoint) -> None:
    endpoint.publish("1.0")
    pending: list[bool] = []

    def halt(step: str) -> None:
        if step == "before stage" and not pending:
            wait = asyncio.run_coroutine_threadsafe(endpoint.halt("app==1.0", 3), loops[0])
            wait.result(DEADLINE_S)
            pending.append(endpoint.installer.has_to_obey())

    loops: list[asyncio.AbstractEventLoop] = []

    async def story(one: Endpoint) -> None:
        loops.append(asyncio.get_running_loop())
        await one.until(lambda: bool(pending))
        await one.until(lambda: not one.installer.has_to_obey())

    endpoint.run(story, cut_power=halt)
    assert pending == [True]
    assert endpoint.state == ("", "idle")


@pytest.mark.parametrize("level", [3, 4])
def test_a_halted_release_is_passed_over_for_the_one_before_it(
    endpoint: Endpoint, level: int
) -> None:
    endpoint.publish("1.0")

    async def story(endpoint: Endpoint) -> None:
        await endpoint.until_runs("1.0")
        await endpoint.halt("app==3.0", level)

    endpoint.run(story)
    endpoint.publish("2.0")
    endpoint.publish("3.0")
    endpoint.run(runs("2.0"))


def test_a_halt_of_level_4_leaves_alone_what_runs(endpoint: Endpoint) -> None:
    for version in ("1.0", "2.0"):
        endpoint.publish(version)
        endpoint.run(runs(version))

    async def story(endpoint: Endpoint) -> None:
        await endpoint.until_runs("2.0")
        await endpoint.halt("app", 4)
        await endpoint.until(lambda: is_at_rest(endpoint))

    endpoint.run(story)
    endpoint.run(rests)
    assert endpoint.state == ("2.0", "idle")
    assert endpoint.installer.counts.rolled_back == 0


# --- crashes -----------------------------------------------------------------------------------


# What writes: the journal and the handler.
STEPS = {"write", "add_failed", "stage", "activate", "unstage", "quarantine", "sweep"}


class Countdown:
    """Cuts the power before or after the step with this number."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.has_cut = False

    def __call__(self, step: str) -> None:
        # A machine that is off stays off: a clean-up on the way out must do nothing either.
        is_counted = step.split()[1] in STEPS
        if self.has_cut or (is_counted and self._left == 0):
            self.has_cut = True
            raise PowerCutError(step)
        self._left -= is_counted


def is_at_rest(endpoint: Endpoint) -> bool:
    """Whether nothing is under way and nothing is left to do."""
    installer = endpoint.installer
    is_idle = endpoint.state[1] == "idle" and installer._is_settled
    return is_idle and bool(endpoint.host.catalogue.releases) and installer._offers.best() is None


async def rests(endpoint: Endpoint) -> None:
    await endpoint.until(lambda: is_at_rest(endpoint))


@pytest.mark.parametrize("check", ["true", FAILS])
def test_a_power_cut_at_any_step_ends_where_no_power_cut_would(
    bench: Bench, tmp_path: Path, check: str
) -> None:
    before = Endpoint(bench, tmp_path / "before")
    before.publish("1.0")
    before.run(runs("1.0"))
    before.publish("2.0", check)
    wanted = "2.0" if check == "true" else "1.0"
    for number in range(100):
        endpoint = before.cloned(tmp_path / f"cut-{number}")
        countdown = Countdown(number)

        async def story(endpoint: Endpoint, countdown: Countdown = countdown) -> None:
            await endpoint.until(lambda: countdown.has_cut or is_at_rest(endpoint))

        with suppress(BaseExceptionGroup):
            endpoint.run(story, cut_power=countdown)
        if not countdown.has_cut:
            assert number > 8
            return
        endpoint.run(rests)
        assert endpoint.state == (wanted, "idle"), f"the power went at step {number}"
    raise AssertionError("a hundred steps are more than an install has")


# --- leases -------------------------------------------------------------------------------------


def test_an_endpoint_without_a_lease_installs_nothing_and_says_so(
    bench: Bench, tmp_path: Path
) -> None:
    endpoint = Endpoint(bench, tmp_path / "endpoint", is_leased=False)
    endpoint.publish("1.0")

    async def story(one: Endpoint) -> None:
        await one.until(lambda: "waits for a lease" in one.installer.health().detail)
        assert one.state == ("", Phase.IDLE.value)
        one.grant_lease()
        await one.until_runs("1.0")

    endpoint.run(story)


def test_a_lease_that_ends_between_gate_and_switch_undoes_the_activation(
    endpoint: Endpoint,
) -> None:
    endpoint.publish("1.0")
    stood_still: list[str] = []

    def stand_still(step: str) -> None:
        if step == "before activate" and not stood_still:
            stood_still.append(step)
            endpoint.host.node.void_lease("the machine stood still")

    async def story(one: Endpoint) -> None:
        await one.until(lambda: "stood still" in one.installer.health().detail)
        assert one.installer.health().version == ""
        assert one.installer.counts.activations_after_receipt == 0
        one.grant_lease()
        await one.until_runs("1.0")

    endpoint.run(story, cut_power=stand_still)


def test_clocks_that_diverge_end_a_lease(endpoint: Endpoint) -> None:
    endpoint.publish("1.0")

    async def story(one: Endpoint) -> None:
        await one.until_runs("1.0")
        manifest = one.installer.health().manifest
        assert one.host.may_start(Gate.ACTIVATE, manifest)
        one.host._divergence = Span(one.host._divergence - 6.0)
        assert not one.host.may_start(Gate.ACTIVATE, manifest)
        assert "diverged" in one.host.node.lease.why

    endpoint.run(story)


# --- tombstones and floors ----------------------------------------------------------------------


def test_a_state_folder_from_before_a_halt_finds_it_again_beside_the_product(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    endpoint.publish("1.0")

    async def first(one: Endpoint) -> None:
        await one.until_runs("1.0")
        await one.halt("app", 4)
        one.installer.keep_tombstones()

    endpoint.run(first)
    # The state folder is restored; the product's own root is not.
    (endpoint._folder / "state" / "orders.log").unlink()

    async def second(one: Endpoint) -> None:
        await one.until(lambda: len(one.host.node.orders.ids()) == 1)
        assert not one.host.node.permits(Gate.SERVE, one.installer.health().manifest)

    endpoint.run(second)


def test_a_tombstone_that_is_not_known_to_be_lifted_stays(tmp_path: Path) -> None:
    stones = Tombstones(tmp_path)
    halt = Halt(bytes(32), "halt", b"record", frozenset(), frozenset(), "", 0, parse_scope("a"), 4)
    stones.keep([halt], {halt.id}.__contains__)
    stones.keep([], lambda _: False)
    assert stones.read() == [b"record"]
    stones.keep([], {halt.id}.__contains__)
    assert stones.read() == []


def test_no_halt_brings_an_endpoint_below_the_signed_floor(bench: Bench, tmp_path: Path) -> None:
    endpoint = Endpoint(bench, tmp_path / "endpoint")
    endpoint.publish("1.0")

    async def run_the_first(one: Endpoint) -> None:
        await one.until_runs("1.0")

    endpoint.run(run_the_first)
    endpoint.publish("2.0", floor=2)

    async def story(one: Endpoint) -> None:
        await one.until_runs("2.0")
        await one.halt("app==2.0", 6)
        await one.until(lambda: "nothing good" in one.installer.health().detail)
        assert one.state[0] == "2.0"

    endpoint.run(story)
