"""One publisher's key file hands in a list so deep that who reads it may not be able to write it.

Over the network, with real programs; in one process it is in test_poisoned_lists.py.
"""

import sys
from pathlib import Path

import pytest

from firedoor.trust.repository import signed_by
from tests.attacks.ground import Ground, firedoor, ground
from tests.attacks.release_thief import Thief, as_thief, deep, with_row
from tests.unit.origin_bench import COUNTS

pytestmark = pytest.mark.slow

OTHER = "releases/other"
DAY_S = 86400


def hand_in_the_deepest(site: Ground) -> int:
    """How deep a list the origin has taken; 0: none."""

    async def work(thief: Thief) -> int:
        manifest = await thief.bring("junk", "1.0")
        for levels in range(1000, 900, -1):
            listed = with_row(thief.current, manifest, expires_s=DAY_S)
            limit = sys.getrecursionlimit()
            sys.setrecursionlimit(10_000)  # the thief's own machine
            try:
                listed.signed.unrecognized_fields["x"] = deep(levels)
                body = signed_by(listed, [thief.key.signing_seed]).to_bytes()
            finally:
                sys.setrecursionlimit(limit)
            if await thief.hand_in(body, manifest):
                return levels
        return 0

    return as_thief(site.key("releases-other-1"), work)


def test_one_publisher_s_key_keeps_nobody_from_turning_keys_or_publishing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.attacks.ground.COUNTS", COUNTS | {OTHER: (1, 1)})
    with ground(tmp_path / "ground") as site:
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / "content").write_text("x", "utf-8")
        main = site.key("releases-main-1")
        assert firedoor("publish", "kiosk", "1.0", tree, "--key", main).code == 0
        print("taken at", hand_in_the_deepest(site))
        turn, at = ("keys", "rotate"), ("--fleet", site.fleet)
        ends = {
            "rotate halt": firedoor(*turn, "halt", *at),
            "rotate releases/other": firedoor(*turn, OTHER, *at),
            "rotate root": firedoor(*turn, "root", *at),
            "a new product of main": firedoor("publish", "fresh", "1.0", tree, "--key", main),
        }
        assert {name: said.err for name, said in ends.items() if said.code} == {}
