"""The handler of a product by the name that its settings give.

A new handler is a class that keeps contract.py, a line here, and one in pieces/handlers.py; the
contract's tests run it at once.
"""

from collections.abc import Callable
from pathlib import Path

from agent.handlers.contract import Handler
from agent.handlers.files import FilesHandler
from firedoor.pieces.handlers import checked_handler

MAKERS: dict[str, Callable[[Path], Handler]] = {"files": FilesHandler}


def make_handler(name: str, root: Path) -> Handler:
    """The handler `name` on a product's root.

    Raises:
        Malformed: there is none of this name.
    """
    return MAKERS[checked_handler("handler", name)](root)
