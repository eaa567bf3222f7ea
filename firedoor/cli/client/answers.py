"""What a command says: lines to standard output, and an error as one sentence and exit code 1."""

import sys

from firedoor.errors import FiredoorError, sentence_of
from firedoor.runtime.terminal import plain

# An error's sentence, whatever long names are in it.
SENTENCE_MAX = 2000


def fail(error: FiredoorError | OSError) -> int:
    """Say an error in one sentence; the exit code."""
    # Names of files and what peers say may be anybody's text.
    sentence = plain(sentence_of(error), SENTENCE_MAX)
    print(f"firedoor: {sentence}", file=sys.stderr)  # noqa: T201  # the program's answer
    return 1


def say(text: str) -> None:
    """One line to standard output, at once."""
    print(text, flush=True)  # noqa: T201  # the program's answer
