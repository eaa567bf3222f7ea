"""Hunts that take as long as one lets them; `make hunt` runs them, `make test` a slice.

`python -m tests.hunt kills --times N [--seed S]`: an endpoint is sent halts and killed by SIGKILL
at a random moment, N times. Every order that it acknowledged must be on its disk afterwards, and
denied at its next start without anybody else in reach.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.hunt import kills


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hunt", description=__doc__)
    parser.add_argument("hunt", choices=["kills"])
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="firedoor-hunt-") as name:
        found = kills.hunt(Path(name), times=arguments.times, seed=arguments.seed)
    print(json.dumps(found))
    sys.exit(1 if found["lost"] else 0)


if __name__ == "__main__":
    main()
