"""How the demo looks: a timeline, bars while pieces move, a table of the halt."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

_BAR = 24


class Timeline:
    """Writes what happens, with the seconds since the demo began."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console = console
        self._clock = clock
        self._began = clock()
        self._shown = ""

    def step(self, text: str) -> None:
        """A new chapter."""
        self._console.print(f"\n[bold]{self._at()}  {text}[/]")

    def say(self, text: str) -> None:
        """Something happened."""
        self._console.print(f"{self._at()}  {text}", highlight=False)

    def progress(self, statuses: dict[str, dict[str, Any]]) -> None:
        """A bar for the release on its way, once per visible change."""
        bars = " ".join(f"{name}:{_bar(each)}" for name, each in sorted(statuses.items()))
        if bars != self._shown and self._shown is not None:
            self._shown = bars
            done = sum(_share(each) for each in statuses.values()) / max(1, len(statuses))
            filled = int(done * _BAR)
            self.say(f"[{'█' * filled}{'·' * (_BAR - filled)}] {bars}".replace("[", "\\[", 1))

    def bytes(self, moved: dict[str, int]) -> None:
        """Where the bytes of one release came from."""
        for kind, text in (
            ("upstream", "over the wide area, once for the site"),
            ("mirror", "from the mirror to endpoints"),
            ("peers", "from endpoint to endpoint"),
        ):
            self.say(f"{moved[kind]:>12,} bytes {text}")

    def halt(self, rows: dict[str, dict[str, Any]], first: float, facts: dict[str, Any]) -> None:
        """When each peer closed its brake and had it on disk."""
        table = Table("peer", "closed, ms", "recorded, ms", box=None)
        for name, row in sorted(rows.items()):
            closed, recorded = row["closed_at"] - first, row["recorded_at"] - first
            table.add_row(name, f"{closed * 1000:.1f}", f"{recorded * 1000:.1f}")
        self._console.print(table)
        self.say(f"last covered byte after {facts['last_covered_byte_ms']} ms")
        self.say(f"activations after receipt: {facts['activations_after_receipt']}")

    def end(self, broken: list[str]) -> None:
        """The last line."""
        verdict = "[red]a promise was broken[/]" if broken else "[green]every promise held[/]"
        self._console.print(f"\n{self._at()}  {verdict}")

    def _at(self) -> str:
        return f"{self._clock() - self._began:5.1f} s"


def _share(status: dict[str, Any]) -> float:
    rows = [row for row in status["releases"] if row["pieces_total"] and not row["level"]]
    have, total = sum(row["pieces_have"] for row in rows), sum(row["pieces_total"] for row in rows)
    return have / total if total else 0.0


def _bar(status: dict[str, Any]) -> str:
    return " ▁▂▃▄▅▆▇█"[int(_share(status) * 8)]
