"""Hunts that take as long as one lets them; `make hunt` runs them, `make test` a slice.

`python -m tests.hunt kills --times N [--seed S]`: an endpoint is sent halts and killed by SIGKILL
at a random moment, N times. Every order that it acknowledged must be on its disk afterwards, and
denied at its next start without anybody else in reach.

`python -m tests.hunt mutants [--times N] [--seed S]`: N of the checks that hold attacks off (all)
are removed, one at a time, from the files of this very folder, and the tests that import the file
must notice; do it in a clone. Whoever survives and is not in survivors.txt fails the hunt.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.hunt import kills, mutants


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.hunt", description=__doc__)
    parser.add_argument("hunt", choices=["kills", "mutants"])
    parser.add_argument("--times", type=int)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.hunt == "mutants":
        done = mutants.hunt(times=arguments.times or 0, seed=arguments.seed)
        print(json.dumps(done))
        sys.exit(1 if done["new"] else 0)
    with tempfile.TemporaryDirectory(prefix="firedoor-hunt-") as name:
        found = kills.hunt(Path(name), times=arguments.times or 1000, seed=arguments.seed)
    print(json.dumps(found))
    sys.exit(1 if found["lost"] else 0)


if __name__ == "__main__":
    main()
