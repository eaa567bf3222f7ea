"""How the demo looks: a timeline, a bar while pieces move, a table of the halt."""

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
        self._shown = ""
        self._console.print(f"\n[bold]{self._at()}  {text}[/]")

    def say(self, text: str) -> None:
        """Something happened."""
        # Blanks at the end cover what is left of a bar.
        self._console.print(f"{self._at()}  {text:<64}", highlight=False, soft_wrap=True)

    def progress(self, version: str, shares: dict[str, float]) -> None:
        """How much of a release is where: one line that changes, and stays when all is there."""
        done = sum(shares.values()) / max(1, len(shares))
        bars = "".join(" ▁▂▃▄▅▆▇█"[int(share * 8)] for share in shares.values())
        filled = int(done * _BAR)
        line = f"{'█' * filled}{'·' * (_BAR - filled)} {done:4.0%} of {version}, by endpoint {bars}"
        if line == self._shown:
            return
        self._shown = line
        if self._console.is_terminal:
            self._console.print(f"{self._at()}  {line}", highlight=False, end="\r")
        elif done in {0.0, 1.0}:
            self.say(line)

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
        # From the moment at which the first peer had the signed order.
        table = Table("peer", "brake closed after, ms", "on disk after, ms", box=None)
        for name, row in sorted(rows.items()):
            closed, recorded = row["closed_at"] - first, row["recorded_at"] - first
            table.add_row(name, f"{closed * 1000:.1f}", f"{recorded * 1000:.1f}")
        self._console.print(table)
        late = facts["last_covered_byte_ms"]
        self.say(f"last covered byte {late} ms after" if late else "not one covered byte after it")
        self.say(f"activations after receipt: {facts['activations_after_receipt']}")

    def end(self, broken: list[str]) -> None:
        """The last line."""
        verdict = "[red]a promise was broken[/]" if broken else "[green]every promise held[/]"
        self._console.print(f"\n{self._at()}  {verdict}")

    def _at(self) -> str:
        return f"{self._clock() - self._began:5.1f} s"
