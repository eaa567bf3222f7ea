"""Text from other machines on a person's terminal: one line, no control characters.

A reason, a check's output or a product's name must not be able to forge a line of status, move the
cursor or change colours.
"""

import unicodedata


def plain(text: object, limit: int = 400) -> str:
    """`text` on one line, with each control or invisible format character shown as `?`."""
    shown = "".join(
        char if char == " " or unicodedata.category(char)[0] not in "CZ" else "?"
        for char in str(text)[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
