"""One JSON line per change of state: a constant event name and named facts."""

import json
import logging
import sys
from collections.abc import Mapping

_LOGGER = logging.getLogger("firedoor")


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        line = {"at": round(record.created, 3), "level": record.levelname.lower()}
        return json.dumps(line | {"event": record.getMessage()} | facts, default=str)


def setup() -> None:
    """Write info and above to stderr, where a service manager keeps it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False


def log(event: str, *, level: str = "info", **facts: object) -> None:
    """Write one event. warning: a peer broke a rule; error: a person must act (fact `do`)."""
    log_facts(event, facts, level)


def log_facts(event: str, facts: Mapping[str, object], level: str = "info") -> None:
    """The same, with the facts in a table."""
    _LOGGER.log(logging.getLevelNamesMapping()[level.upper()], event, extra={"facts": dict(facts)})
