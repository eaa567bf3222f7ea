"""`python -m simulator --endpoints N --pieces P --seed S`: run one site and say what came of it."""

import argparse
import json
import sys
from dataclasses import asdict

from simulator.fleet import Site, SiteSettings


def main(arguments: list[str]) -> int:
    """Print the report as JSON; 0 if every endpoint that stayed is complete and no rule broke."""
    parser = argparse.ArgumentParser(prog="simulator", description="One site in virtual time.")
    parser.add_argument("--endpoints", type=int, default=16)
    parser.add_argument("--pieces", type=int, default=256, help="of 256 KiB each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--liars", type=int, default=0, help="endpoints that send wrong bytes")
    parser.add_argument("--lost", type=int, default=0, help="endpoints that leave in between")
    settings = SiteSettings(**vars(parser.parse_args(arguments)))
    report = Site(settings).run()
    sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    return 0 if report.complete == report.wanted and not report.breaches else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
