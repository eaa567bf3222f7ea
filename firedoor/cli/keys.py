"""`firedoor init`: make a fleet's keys and first metadata."""

from collections.abc import Mapping
from pathlib import Path

from firedoor.cli.common import passphrase_of, say
from firedoor.errors import Malformed
from firedoor.runtime.clocks import Clock
from firedoor.runtime.fleet_folder import FleetPlan, make_fleet
from firedoor.runtime.settings import split_address


def init_fleet(
    folder: Path,
    *,
    name: str,
    origin: str,
    mdns: tuple[str, ...],
    counts: Mapping[str, tuple[int, int]],
    secrecy: tuple[Path | None, bool],
) -> None:
    """Make a fleet in `folder`; `secrecy`: passphrase file, and whether none is wanted.

    Raises:
        Malformed: contradictory options, an address that is none, a folder that exists.
    """
    passphrase_file, is_open = secrecy
    if is_open and passphrase_file is not None:
        raise Malformed("options", wanted="a passphrase or none", got="both")
    if origin:
        split_address(origin)
    passphrase = None if is_open else passphrase_of(passphrase_file)()
    plan = FleetPlan(name, origin, mdns, counts, passphrase)
    fleet = make_fleet(folder, plan, Clock().unix())
    if is_open:
        say(f"WARNING: the keys in {folder} are NOT sealed: whoever reads a file can use its key")
    say(f"fleet {fleet} in {folder}")
    say("  keys/    keep offline; hand halt-*.key to operators, releases-*.key to publishers")
    say("  origin/  goes to the origin's machine (origin_folder in its mirror.toml)")
    say("  root.json  is public; every machine gets it when it enrols")
