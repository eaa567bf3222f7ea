"""What other machines say cannot forge a line on a person's screen."""

import pytest

from firedoor.runtime.terminal import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("it crashes", "it crashes"),
        ("Größe 中文 🔥", "Größe 中文 🔥"),
        ("a\nHALTED everything", "a?HALTED everything"),
        ("\x1b[31mred\r\b\t", "?[31mred???"),
        ("\u202eright to left\u2028next\x9b", "?right to left?next?"),
        ("", ""),
    ],
)
def test_control_characters_are_shown_as_question_marks(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_a_long_text_is_cut_and_says_so() -> None:
    assert plain("x" * 10, 10) == "x" * 10
    assert plain("x" * 11, 10) == "x" * 9 + "…"
