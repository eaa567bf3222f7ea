"""Which publisher a product belongs to: another publisher's rows of it are ignored.

* Root's word first: the field `x-firedoor-products` of the signed targets, product to publisher;
  version 0.1 passes it over.
* Else the publisher whose list had the product first here, which is kept durably.
* Else the first in order of delegation.

A product whose publisher was removed is nobody's, until root grants it. So a stolen release key
takes over no product, and stops none by listing it. Its rows are said.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from firedoor.errors import FiredoorError, Unavailable
from firedoor.runtime.files import durable_write
from firedoor.runtime.folders import read_regular
from firedoor.runtime.logs import log
from firedoor.wire.json_text import json_map

# Products of a fleet, by name of 64 characters.
_FILE_BYTES_MAX = 16 << 20


class Owners:
    """The owners that this program has seen, in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._first: dict[str, str] = {}
        try:
            table = json_map(read_regular(path, _FILE_BYTES_MAX), str(path))
            self._first = {name: role for name, role in table.items() if isinstance(role, str)}
        except (FileNotFoundError, FiredoorError):
            pass  # A new folder; or a damaged file, and the order of delegation decides anew.

    def of(self, product: str, grants: Mapping[str, object]) -> str | None:
        """The role that a product belongs to, whoever lists it now; None: nobody's yet."""
        granted = grants.get(product)
        return f"releases/{granted}" if isinstance(granted, str) else self._first.get(product)

    def settle(
        self, lists: Sequence[tuple[str, Iterable[str]]], grants: Mapping[str, object]
    ) -> dict[str, str]:
        """The role that each product belongs to.

        `lists`: each publisher's role, in order of delegation, and the products in its list.
        """
        owners: dict[str, str] = {}
        for role, products in lists:
            for product in products:
                owners.setdefault(product, role)
        for product, listed in [*owners.items()]:
            granted = grants.get(product)
            is_granted = isinstance(granted, str)
            owners[product] = (
                f"releases/{granted}" if is_granted else self._first.get(product, listed)
            )
        fresh = self._first | owners
        if fresh != self._first:
            self._first = fresh
            try:
                durable_write(self._path, json.dumps(fresh, sort_keys=True).encode())
            except Unavailable as error:
                # What is listed can be halted all the same; this run goes by what it has seen.
                log("owners-not-kept", level="error", why=str(error), do="free disk space")
        return owners
