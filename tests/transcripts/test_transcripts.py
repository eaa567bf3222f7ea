"""Every transcript of this folder still goes as it is written."""

import os
from pathlib import Path

import pytest

from tests.transcripts.harness import World

HERE = Path(__file__).parent
PATHS = sorted(HERE.glob("*.txt"))


def blocks(text: str) -> list[tuple[str, str, list[str]]]:
    """Each block's comment, command and wanted lines."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = block.split("\n")
        comment = "".join(f"{line}\n" for line in lines if line.startswith("#"))
        rest = [line for line in lines if not line.startswith("#")]
        if rest:
            found.append((comment, rest[0], rest[2:]))
        else:
            found.append((comment, "", []))
    return found


def played(text: str) -> str:
    """The same transcript with what happens now."""
    world = World()
    parts = []
    for comment, command, _ in blocks(text):
        shown = [command, "----", *world.play(command)] if command else []
        parts.append((comment + "\n".join(shown)).strip())
    return "\n\n".join(parts) + "\n"


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_a_transcript_goes_as_it_is_written(path: Path) -> None:
    text = path.read_text("utf-8")
    now = played(text)
    if os.environ.get("REWRITE"):
        path.write_text(now, "utf-8")
    assert now == text


def test_there_are_transcripts() -> None:
    assert len(PATHS) > 4
