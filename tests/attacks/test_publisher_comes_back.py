"""A publisher that was removed, for its key was stolen, and added again has a key that is new."""

import shutil
from pathlib import Path

import pytest

from tests.attacks.ground import firedoor, ground

pytestmark = pytest.mark.slow


def test_a_stolen_key_publishes_nothing_after_its_publisher_was_removed_and_added_again(
    tmp_path: Path,
) -> None:
    with ground(tmp_path) as site:
        fleet = ("--fleet", site.fleet)
        added = firedoor("keys", "publisher", "add", "third", *fleet)
        assert added.code == 0, added.err
        stolen = shutil.copy(site.key("releases-third-1"), tmp_path / "stolen.key")
        removed = firedoor("keys", "publisher", "remove", "third", *fleet)
        assert removed.code == 0, removed.err
        # It may be refused, with a word about the file that lies there; it may not count again.
        firedoor("keys", "publisher", "add", "third", *fleet)
        tree = tmp_path / "tree"
        tree.mkdir()
        (tree / "whose").write_text("the thief's", "utf-8")
        said = firedoor("publish", "posters", "6.6", tree, "--key", stolen)
        assert said.code != 0, said.text


def test_a_removal_that_was_cut_off_retires_the_key_files_when_it_is_run_again(
    tmp_path: Path,
) -> None:
    with ground(tmp_path) as site:
        fleet = ("--fleet", site.fleet)
        for name in ("third", "third-9"):
            added = firedoor("keys", "publisher", "add", name, *fleet)
            assert added.code == 0, added.err
        kept = shutil.copy(site.key("releases-third-1"), tmp_path / "kept.key")
        assert firedoor("keys", "publisher", "remove", "third", *fleet).code == 0
        # As a run leaves it that has ended between the origin's answer and the file.
        shutil.copy(kept, site.key("releases-third-1"))
        again = firedoor("keys", "publisher", "remove", "third", *fleet)
        assert again.code == 0, again.err
        assert not site.key("releases-third-1").exists()
        assert firedoor("keys", "publisher", "remove", "third", *fleet).code != 0
        # Another's name begins like it.
        assert site.key("releases-third-9-1").exists()


def test_a_publisher_that_is_there_already_gets_no_more_key_files(tmp_path: Path) -> None:
    with ground(tmp_path) as site:
        fleet = ("--fleet", site.fleet)
        said = firedoor("keys", "publisher", "add", "main", "--keys", 2, *fleet)
        assert said.code != 0
        assert "is new; hand it to the publisher" not in said.text
        assert not site.key("releases-main-2").exists()
        # With a key that is none beside it the publisher's own command would refuse.
        site.publish("kiosk", "1.0")
