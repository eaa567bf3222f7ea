"""Whole endpoints in virtual time: install, halt and step back by the decisions of the agent."""

import pytest

from simulator.__main__ import main
from simulator.endpoints import Machine, Rollout

ENDPOINTS = 40

# Before it is downloaded, while it is downloaded, staged, checked, and long after it is well.
INSTANTS = [0.0, 0.3, 0.7, 1.0, 1.2, 2.0, 3.0, 30.0]


@pytest.mark.parametrize("halt_at", INSTANTS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_a_halt_at_any_instant_every_endpoint_runs_the_old_release(
    halt_at: float, seed: int
) -> None:
    report = Rollout(ENDPOINTS, seed, halt_at).run()
    assert report.breaches == ()
    assert report.on_old == ENDPOINTS
    assert report.halted_s < 0.1


def test_without_a_halt_in_its_way_every_endpoint_installs_the_new_release() -> None:
    assert Rollout(ENDPOINTS, 1, 30.0).run().activated == ENDPOINTS


def test_a_site_steps_back_in_turns_of_twenty_a_second() -> None:
    assert 0.5 < Rollout(ENDPOINTS, 1, 30.0).run().back_s <= ENDPOINTS / 20 + 1


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    digests = [Rollout(ENDPOINTS, seed, 2.0).run().digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_endpoints_that_see_no_level_do_not_step_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def blind(_: Rollout, machine: Machine) -> object:
        sight = look(site, machine)
        return type(sight)(sight.now, sight.active, sight.staged, candidate=sight.candidate)

    site = Rollout(ENDPOINTS, 1, 30.0)
    look = Rollout._sight
    monkeypatch.setattr(Rollout, "_sight", blind)
    report = site.run()
    assert report.on_old < ENDPOINTS


def test_the_command_runs_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--endpoints", "5", "--halt-at", "1.0"]) == 0
    assert '"on_old": 5' in capsys.readouterr().out
