"""JSON from another machine: whole, text that can be written again, and of the wanted form.

What is refused is `Malformed`, whatever the sender did: no depth, number or half character of it
ends in a traceback.
"""

import json
from typing import Any, TypeVar

import msgspec

from firedoor.errors import Malformed

S = TypeVar("S")


def json_map(body: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `body`; `what` names it.

    Raises:
        Malformed: it is something else, or has text that is no Unicode.
    """
    try:
        table = json.loads(body)
        # Half of a surrogate pair is text that no file and no screen takes.
        json.dumps(table, ensure_ascii=False).encode()
    # Deep brackets make json raise RecursionError.
    except (ValueError, RecursionError) as error:
        raise Malformed(what, wanted="JSON", got=str(error)[:80]) from error
    if not isinstance(table, dict):
        raise Malformed(what, wanted="a JSON object", got=type(table).__name__)
    return table


def read_json(kind: type[S], table: object, what: str) -> S:
    """`table` as a record; keys that the record does not name are passed over.

    Raises:
        Malformed: it is none of this kind.
    """
    try:
        return msgspec.convert(table, kind, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Malformed(what, wanted=f"a {kind.__name__}", got=str(error)[:120]) from error
