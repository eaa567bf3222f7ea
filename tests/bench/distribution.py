"""How long something took for many: three figures of one round, and one row for several rounds."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

Row = dict[str, float]


def row_of(spans_s: Sequence[float]) -> Row | None:
    """p50, p99 and the maximum in milliseconds, by nearest rank; None: nobody got there."""
    if not spans_s:
        return None
    ordered = sorted(1000 * each for each in spans_s)
    at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        name: round(ordered[max(0, math.ceil(share * len(ordered)) - 1)], 1)
        for name, share in at.items()
    }


def row_of_rounds(rows: Sequence[Row | None]) -> Row | None:
    """Medians over the rounds of p50 and of p99, and the largest maximum."""
    able = [row for row in rows if row is not None]
    if not able:
        return None
    middle = {name: round(median(row[name] for row in able), 1) for name in ("p50", "p99")}
    return middle | {"max": max(row["max"] for row in able)}


def since(begin: float, times: Mapping[int, Sequence[float]], column: int = 0) -> list[float]:
    """Seconds from `begin` to one column of what each has said."""
    return [each[column] - begin for each in times.values()]
