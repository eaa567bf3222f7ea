"""The simulator itself: same seed, same trace digest, in this process and in any other."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simulator.__main__ import main
from simulator.fleet import Site, SiteSettings

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = ["--endpoints", "6", "--pieces", "32", "--seed", "9", "--liars", "1", "--lost", "1"]
SETTINGS = SiteSettings(6, 32, 9, liars=1, lost=1)


def test_the_same_seed_gives_the_same_trace() -> None:
    assert Site(SETTINGS).run() == Site(SETTINGS).run()


def test_another_seed_gives_another_trace() -> None:
    assert (
        Site(SETTINGS).run().digest != Site(SiteSettings(6, 32, 10, liars=1, lost=1)).run().digest
    )


@pytest.mark.slow
@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_another_process_gives_the_same_trace(hash_seed: str) -> None:
    # Another PYTHONHASHSEED orders every set anew: a core that depends on it would differ.
    ran = subprocess.run(
        [sys.executable, "-m", "simulator", *ARGUMENTS],
        cwd=ROOT,
        env={"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert json.loads(ran.stdout)["digest"] == Site(SETTINGS).run().digest


def test_the_program_says_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ARGUMENTS) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["complete"] == report["wanted"] == 4
    assert report["breaches"] == []
