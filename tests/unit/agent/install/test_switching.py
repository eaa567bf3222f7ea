"""Products that switch when they are told: armed under a lease, disarmed without one."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from agent.decisions import install
from agent.decisions.lifecycle import Phase
from agent.install import switching
from firedoor.errors import Halted, Malformed, Unavailable
from firedoor.units import Span, after
from tests.unit.endpoint import PRODUCT, Endpoint
from tests.unit.origin_bench import Bench

ARMED = ("1.0", Phase.STAGED.value)


@pytest.fixture
def endpoint(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """One that runs 1.0 and has 2.0 armed once its story begins."""
    monkeypatch.setattr(install, "LOOK_ARMED", Span(0.01))
    one = Endpoint(bench, tmp_path / "endpoint", switch="when-told")
    one.publish("1.0")

    async def first(one: Endpoint) -> None:
        await one.until(lambda: bool(one.installer.arming.manifest))
        assert await one.installer.switch() == "1.0"
        await one.until_runs("1.0")

    one.run(first)
    one.publish("2.0")
    return one


async def until_armed(one: Endpoint) -> None:
    await one.until(lambda: bool(one.installer.arming.manifest))
    assert one.state == ARMED


def test_an_armed_release_switches_when_it_is_told_to(endpoint: Endpoint) -> None:
    async def story(one: Endpoint) -> None:
        await until_armed(one)
        assert "is armed" in one.installer.health().detail
        assert one.installer.counts.activations == 0
        assert await one.installer.switch() == "2.0"
        await one.until_runs("2.0")
        with pytest.raises(Unavailable, match="nothing is armed"):
            await one.installer.switch()

    endpoint.run(story)


def test_a_halt_of_level_3_disarms_and_removes_what_is_armed(endpoint: Endpoint) -> None:
    async def story(one: Endpoint) -> None:
        await until_armed(one)
        await one.halt(f"{PRODUCT}==2.0", 3)
        await one.until(lambda: not one.installer.arming.manifest)
        await one.until(lambda: len(one.installer.staged()) == 1)
        with pytest.raises(Unavailable, match="nothing is armed"):
            await one.installer.switch()
        await one.until_runs("1.0")
        assert one.installer.health().detail == ""

    endpoint.run(story)


def test_a_halt_that_comes_with_the_word_wins(endpoint: Endpoint) -> None:
    async def story(one: Endpoint) -> None:
        await until_armed(one)
        switch = asyncio.ensure_future(one.installer.switch())
        await one.halt(f"{PRODUCT}==2.0", 4)
        with pytest.raises((Unavailable, Halted)):
            await switch
        await one.until_runs("1.0")
        assert one.installer.counts.activations == 0

    endpoint.run(story)


def test_a_halt_that_comes_while_the_last_piece_is_staged_arms_nothing(
    endpoint: Endpoint,
) -> None:
    def halt(step: str) -> None:
        if step == "after stage":
            asyncio.run_coroutine_threadsafe(endpoint.halt(f"{PRODUCT}==2.0", 3), loops[0])

    loops: list[asyncio.AbstractEventLoop] = []

    async def story(one: Endpoint) -> None:
        await one.until(lambda: bool(one.host.node.orders.in_force()))
        await one.until(lambda: len(one.installer.staged()) == 1)
        assert not one.installer.arming.manifest
        assert "lease" not in one.installer.health().detail

    def watch(step: str) -> None:
        if not loops and step.endswith("stage"):
            return
        halt(step)

    async def with_loop(one: Endpoint) -> None:
        loops.append(asyncio.get_running_loop())
        await story(one)

    endpoint.run(with_loop, cut_power=watch)


def test_a_halt_of_what_runs_is_obeyed_while_the_next_release_is_armed(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "LOOK_ARMED", Span(0.01))
    one = Endpoint(bench, tmp_path / "three", switch="when-told")

    async def switch_to_next(one: Endpoint) -> None:
        await until_next_is_armed(one)
        version = await one.installer.switch()
        await one.until_runs(version)

    for version in ("1.0", "2.0"):
        one.publish(version)
        one.run(switch_to_next)
    # A pinned version is taken even downwards; what is halted is the newest, so one key is enough.
    one._settings = replace(one._settings, version="1.0")

    async def story(one: Endpoint) -> None:
        await until_next_is_armed(one)
        await one.halt(f"{PRODUCT}==2.0", 6)
        await one.until(lambda: one.state[0] == "1.0")
        assert one.installer.counts.rolled_back == 1

    one.run(story)


async def until_next_is_armed(one: Endpoint) -> None:
    await one.until(lambda: bool(one.installer.arming.manifest))


def test_an_armed_release_has_its_lease_renewed(endpoint: Endpoint) -> None:
    async def story(one: Endpoint) -> None:
        await until_armed(one)
        lease = one.host.node.lease
        soon = after(one.host.clock.now(), lease.terms.renewal)
        due = lease.next_wakeup(one.host.clock.now(), has_work=False)
        assert due is not None
        assert due <= soon

    endpoint.run(story)


def test_a_word_that_is_not_heeded_in_time_is_given_up(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "SWITCH_S", 0.0)

    async def story(one: Endpoint) -> None:
        await until_armed(one)
        with pytest.raises(Unavailable, match="not within"):
            await one.installer.arming.switched()
        assert not one.installer.arming.is_told

    endpoint.run(story)


@pytest.mark.parametrize("body", [b"{", b"3", b"null", b"{}", b"[1]", b"[" * 100_000])
def test_a_word_that_is_no_list_of_products_is_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        switching._products(body)


def test_a_lease_that_lapses_disarms_and_the_next_one_arms_again(endpoint: Endpoint) -> None:
    async def story(one: Endpoint) -> None:
        await until_armed(one)
        one.host.node.void_lease("the origin is silent")
        await one.until(lambda: not one.installer.arming.manifest)
        assert "waits for a lease" in one.installer.health().detail
        with pytest.raises(Unavailable, match="nothing is armed"):
            await one.installer.switch()
        one.grant_lease()
        await until_armed(one)

    endpoint.run(story)


def test_a_word_that_nobody_waits_for_any_more_switches_nothing(endpoint: Endpoint) -> None:
    async def story(one: Endpoint) -> None:
        await until_armed(one)
        switch = asyncio.ensure_future(one.installer.arming.switched())
        await asyncio.sleep(0)
        assert one.installer.arming.is_told
        switch.cancel()
        await asyncio.wait({switch})
        assert not one.installer.arming.is_told

    endpoint.run(story)


def test_a_machine_that_lost_power_while_armed_starts_with_what_it_ran(endpoint: Endpoint) -> None:
    endpoint.run(until_armed)
    endpoint.run(until_armed)


def test_a_newer_release_is_armed_in_the_place_of_an_older_one(endpoint: Endpoint) -> None:
    endpoint.run(until_armed)
    endpoint.publish("3.0")

    async def story(one: Endpoint) -> None:
        await until_armed(one)
        assert await one.installer.switch() == "3.0"
        await one.until_runs("3.0")

    endpoint.run(story)


def test_two_words_at_once_are_one_too_many(endpoint: Endpoint) -> None:
    async def story(one: Endpoint) -> None:
        await until_armed(one)
        first = asyncio.ensure_future(one.installer.arming.switched())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="told already"):
            await one.installer.arming.switched()
        one.installer.notify()
        assert await first == "2.0"

    endpoint.run(story)
