"""Which version of the protocol a peer speaks, and what a message looks like to it.

* Each side says its number in one header of the WebSocket's upgrade (`HEADER`); without it: 1.
* A field or tag carries the number since which it is there (`SINCE`), and goes only to a peer that
  says at least that: programs of version 1 end a conversation over what they do not know.
* What a peer of a later version adds to an unsigned message is skipped and counted (`Skipped`).

Signed records are not read here: in them everything unknown is refused (codec.py).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

HEADER = "Firedoor-Protocol"
"""The header of the upgrade, on its request and on its answer."""

SPOKEN = 2
"""What this program speaks. 1: Firedoor 0.1. 2: reports carry the program's version."""

# Of a later program the number may be higher; what is no small number is none of ours.
_NUMBER = re.compile(r"[0-9]{1,4}")

SINCE = "since"
"""In the metadata of a field: the version since which it is there. It needs a default."""


@dataclass(slots=True)
class Skipped:
    """What was left out of messages since the start, because this version does not know it."""

    fields: int = 0
    tags: int = 0


def spoken_by(header: str | None) -> int:
    """What a peer speaks, by its header; 1 where it says nothing, or nothing that can be read."""
    found = _NUMBER.fullmatch(header or "")
    return max(1, int(found[0])) if found else 1


def fields_for(speaks: int, value: object) -> object:
    """A record as maps, lists and values, with the fields that such a peer knows."""
    if is_dataclass(value) and not isinstance(value, type):
        known = _names(type(value), speaks)
        return {name: fields_for(speaks, getattr(value, name)) for name in known}
    if isinstance(value, tuple):
        return [fields_for(speaks, each) for each in value]
    if isinstance(value, Mapping):
        return {name: fields_for(speaks, each) for name, each in value.items()}
    return value


@cache
def _names(kind: "type[DataclassInstance]", speaks: int) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind) if each.metadata.get(SINCE, 1) <= speaks)
