"""`python -m simulator`: run one site in virtual time and say what came of it.

By default its swarm fetches a release. With `--halt-at S` its endpoints install one, and an
operator halts it after S seconds.
"""

import argparse
import json
import sys
from dataclasses import asdict

from simulator.endpoints import Rollout
from simulator.fleet import Site, SiteSettings


def main(arguments: list[str]) -> int:
    """Print the report as JSON; 0 if every endpoint that stayed is complete and no rule broke."""
    parser = argparse.ArgumentParser(prog="simulator", description="One site in virtual time.")
    parser.add_argument("--endpoints", type=int, default=16)
    parser.add_argument("--pieces", type=int, default=256, help="of 256 KiB each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--liars", type=int, default=0, help="endpoints that send wrong bytes")
    parser.add_argument("--lost", type=int, default=0, help="endpoints that leave in between")
    parser.add_argument("--halt-at", type=float, metavar="S", help="install, halt and step back")
    given = vars(parser.parse_args(arguments))
    halt_at = given.pop("halt_at")
    if halt_at is not None:
        end = Rollout(given["endpoints"], given["seed"], halt_at).run()
        sys.stdout.write(json.dumps(asdict(end), indent=2) + "\n")
        return 0 if end.on_old == given["endpoints"] and not end.breaches else 1
    report = Site(SiteSettings(**given)).run()
    sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    return 0 if report.complete == report.wanted and not report.breaches else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
