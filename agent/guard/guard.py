"""The boot guard: before a managed program starts, one step back from what must not run.

* It steps back when a halt of level 7 covers what is current, or when that has been started too
  often within a span of its activation: a machine that boot-loops has no time for the network.
* At most one step for each activation, to a version that ran well here and that no halt denies. In
  any doubt it changes nothing and says why.
* It needs the standard library alone and no network, trusts only files of trusted owners that
  nobody else can write, and touches nothing but a product's root and its own memory.

It reads what the agent has recorded: the order log, the copies of halts beside each product
(tombstones), and the journal. Orders were verified before they were recorded; it verifies none.
Source: halt/README.md, level 7, and It must not become the outage.
"""

import argparse
import json
import os
import re
import sqlite3
import sys
import time
import tomllib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agent.guard.files import Files
from agent.guard.records import DoubtError, Halt, Named, read_log, with_tombstones

RESCUE = 7
ACTIVATE = 4
NARROW = 5

# Of a product's root; agent/install/tombstones.py writes there.
TOMBSTONES = Path(".firedoor") / "halts"
_ORDER_NAME = re.compile(r"[0-9a-f]{64}\.order")
_LIKE_ONE = re.compile(r".*\.order")

CRASHES = 3
WITHIN_S = 600.0

# A copy of an order beside a product.
_ORDER_BYTES_MAX = 4 << 10

# Copies that are looked at, whatever else lies there.
_TOMBSTONES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Release:
    """One version on the disk, as the journal knows it.

    `newest`: the product's highest counter; `floor`: the lowest one to step back to; `alike`: what
    else has the same content, as far as a halt names it.
    """

    version: str
    manifest: str
    content: bytes
    files: frozenset[bytes]
    counter: int
    newest: int
    floor: int
    alike: frozenset[Named] = frozenset()


@dataclass(frozen=True, slots=True)
class Product:
    """One managed product: its root, what is current, what ran well, and what failed."""

    name: str
    root: Path
    active: str
    activated_ns: int
    good: tuple[str, ...]
    releases: dict[str, Release]
    failed: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Step:
    """A step back. `is_halted`: for a halt, so what is left is put aside as evidence."""

    product: Product
    to: str
    why: str
    is_halted: bool


# --- deciding: no file is changed here -----------------------------------------------------------


def level_of(release: Release, product: str, halts: Iterable[Halt]) -> int:
    """The highest level in force for a release, by the rules of halt/brake.py."""
    return max(
        (_reach(halt, release) for halt in halts if _covers(halt, release, product)), default=0
    )


def decide(product: Product, halts: list[Halt], starts: int, crashes: int) -> Step | str:
    """The step to take, or why none is taken."""
    active = product.releases.get(product.active)
    if active is None:
        return "the journal does not know what is current"
    level = level_of(active, product.name, halts)
    if level >= RESCUE:
        why = f"{active.version} is halted at level {level}"
    elif starts >= crashes:
        why = f"{active.version} was started {starts} times since its activation"
    else:
        return f"{active.version} may start"
    for manifest in product.good:
        release = product.releases.get(manifest)
        if release is None or manifest == product.active or release.content in product.failed:
            continue
        is_above_floor = release.counter >= max(each.floor for each in product.releases.values())
        if is_above_floor and level_of(release, product.name, halts) < ACTIVATE:
            return Step(product, manifest, why, is_halted=level >= RESCUE)
    return f"{why}, but there is nothing good to go back to"


def _reach(halt: Halt, release: Release) -> int:
    """The level of a halt for a release: by what the agent decided, where it has decided it."""
    if halt.level < NARROW or len(halt.keyids) > 1:
        return halt.level
    is_newest = release.counter >= release.newest
    holds = is_newest if halt.reached is None else release.content in halt.reached
    return halt.level if holds else ACTIVATE


def _covers(halt: Halt, release: Release, product: str) -> bool:
    scope = halt.scope
    # Whose sites, rings and publishers are meant the journal does not say: doubt, so nothing goes
    # there.
    if scope == "everything" or scope.startswith(("site:", "ring:", "publisher:")):
        return True
    if scope.startswith("digest:"):
        digest = bytes.fromhex(scope.removeprefix("digest:"))
        return digest == release.content or digest in release.files
    # A publisher who named the key could else halt another's release, by listing its bytes.
    alike = () if halt.is_by_controller else release.alike
    names = {(product, release.version, release.counter), *alike}
    name, mark, span = scope.partition("#")
    if mark:
        first, last = map(int, span.split(".."))
        is_named = any(each[0] == name and first <= each[2] <= last for each in names)
        return is_named or release.content in halt.contents
    name, _, version = scope.partition("==")
    if not version:
        return name == product
    is_named = any(each[:2] == (name, version) for each in names)
    return is_named or release.content in halt.contents


def read_product(
    name: str,
    root: Path,
    journal: sqlite3.Connection,
    known: Mapping[bytes, Collection[Named]] = MappingProxyType({}),
) -> Product:
    """One product as switch and journal say; `known`: releases that halts name, by content.

    Raises:
        DoubtError: nothing is current, or the switch leads elsewhere.
    """
    switch = root / "current"
    if not switch.is_symlink():
        raise DoubtError(f"{switch} is no link: nothing is current there")
    parent, _, folder = switch.readlink().as_posix().rpartition("/")
    if parent != "versions" or (root / "versions" / folder).is_symlink():
        raise DoubtError(f"{switch} leads outside {root}/versions")
    rows = journal.execute(
        "SELECT version, manifest, content, files, counter, newest, floor FROM releases"
        " WHERE product = ?",
        (name,),
    ).fetchall()
    releases = {row[1]: _release(row, known) for row in rows}
    goods = journal.execute(
        "SELECT good, earlier FROM phases WHERE product = ?", (name,)
    ).fetchone()
    failed = journal.execute("SELECT content FROM failed").fetchall()
    # A journal of version 0.1 has no such table.
    if journal.execute("SELECT 1 FROM sqlite_master WHERE name = 'failed_of'").fetchall():
        own = "SELECT content FROM failed_of WHERE product = ?"
        failed += journal.execute(own, (name,)).fetchall()
    there = {
        manifest: release
        for manifest, release in releases.items()
        if (root / "versions" / f"{release.version}-{manifest}").is_dir()
    }
    return Product(
        name,
        root,
        folder.rpartition("-")[2],
        switch.lstat().st_mtime_ns,
        tuple(each for each in goods or () if each),
        there,
        frozenset(bytes(row[0]) for row in failed),
    )


def _release(row: tuple[Any, ...], known: Mapping[bytes, Collection[Named]]) -> Release:
    version, manifest, content, files, counter, newest, floor = row
    digests = frozenset(files[at : at + 32] for at in range(0, len(files), 32))
    alike = frozenset(known.get(bytes(content), ()))
    return Release(version, manifest, bytes(content), digests, counter, newest, floor, alike)


# --- doing ---------------------------------------------------------------------------------------


class Memory:
    """What the guard itself remembers: starts since an activation, and the step it took last."""

    def __init__(self, state: Path, data: bytes) -> None:
        self._state = state
        try:
            read = json.loads(data) if data else {}
        # Deep brackets make json raise RecursionError.
        except (ValueError, RecursionError):
            read = {}
        rows = read.items() if isinstance(read, dict) else ()
        self.table: dict[str, dict[str, Any]] = {
            name: row for name, row in rows if isinstance(row, dict)
        }

    def count(self, product: Product, now: float, within_s: float) -> int:
        """Count this start; how many there were within the span of this activation, before it."""
        row = self.table.setdefault(product.name, {})
        activated = [product.active, product.activated_ns]
        if row.get("activated") != activated or not isinstance(row.get("starts"), int):
            row |= {"activated": activated, "starts": 0}
        before, age = int(row["starts"]), now - product.activated_ns / 1e9
        if age > within_s:
            # It stayed up that long: what comes later is another matter.
            row["starts"] = 0
            return 0
        if age >= 0:
            row["starts"] = before + 1
        return before

    def has_landed(self, product: Product) -> bool:
        """Whether what is current is where its own last step led to."""
        last = self.table.get(product.name, {}).get("last")
        return isinstance(last, dict) and last.get("to") == product.active

    def note_step(self, step: Step) -> None:
        """Remember a step before it is taken."""
        row = self.table.setdefault(step.product.name, {})
        row["last"] = {
            "from": step.product.active,
            "to": step.to,
            "why": step.why,
            "is_halted": step.is_halted,
        }

    def save(self) -> None:
        """Make it durable. The folder is another user's, so nothing that lies there is followed."""
        folder = os.open(self._state, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        try:
            with suppress(FileNotFoundError):
                os.unlink("guard.new", dir_fd=folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open("guard.new", flags, 0o600, dir_fd=folder)
            try:
                os.write(descriptor, json.dumps(self.table).encode())
                os.fsync(descriptor)
                # The agent, another user, reads it.
                owner = os.fstat(folder)
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            finally:
                os.close(descriptor)
            os.replace("guard.new", "guard.json", src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        finally:
            os.close(folder)


def take(step: Step, files: Files) -> None:
    """Throw the switch, and put a halted version aside; each durable before the next.

    Raises:
        DoubtError: the folder for what is put aside is a link, or somebody else's.
    """
    root, product = step.product.root, step.product
    files.check(root / "versions")
    if (root / "quarantine").exists():
        files.check(root / "quarantine")
    fresh = root / ".current-guard"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(Path("versions") / f"{product.releases[step.to].version}-{step.to}")
    fresh.replace(root / "current")
    _sync(root)
    if step.is_halted:
        left = f"{product.releases[product.active].version}-{product.active}"
        aside = root / "quarantine" / left
        aside.parent.mkdir(exist_ok=True)
        if not aside.exists():
            (root / "versions" / left).rename(aside)
            _sync(aside.parent)
            _sync(root / "versions")


def _sync(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- the program ---------------------------------------------------------------------------------


def main(words: list[str]) -> int:
    """Guard every product, or those that are named; 0, for a guard must not become the outage."""
    parser = argparse.ArgumentParser(prog="firedoor-agent guard", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")
    parser.add_argument("--product", action="append", help="only this one; else all")
    parser.add_argument("--user", default="", help="the user that runs the agent, if not root")
    parser.add_argument("--dry-run", action="store_true", help="only say what it would do")
    arguments = parser.parse_args(words)
    try:
        _guard(arguments)
    # The outermost loop of a program that a machine's start waits for: whatever it is, it must not
    # keep the machine from starting.
    except Exception as doubt:  # noqa: BLE001  # as said above
        _say(f"in doubt, so nothing is changed: {doubt!r}")
    return 0


def _guard(arguments: argparse.Namespace) -> None:
    owners = {0, os.geteuid() if os.name == "posix" else 0}
    if arguments.user:
        import pwd  # noqa: PLC0415  # POSIX only

        owners.add(pwd.getpwnam(arguments.user).pw_uid)
    files = Files(frozenset(owners))
    settings = tomllib.loads(files.read(arguments.config).decode())
    state = Path(settings["state"]).expanduser()
    files.check(state)
    fleet = sha256(files.read(Path(settings["fleet_root"]).expanduser())).hexdigest()[:32]
    with files.blocks(state / "orders.log") as log:
        orders = read_log(fleet, log)
    memory = Memory(state, _memory_of(files, state / "guard.json"))
    files.check(state / "journal.db")
    for more in ("journal.db-wal", "journal.db-shm"):
        if (state / more).exists():
            files.check(state / more)
    limits = settings.get("guard", {})
    journal = sqlite3.connect(f"file:{state / 'journal.db'}?mode=ro", uri=True)
    try:
        for name, table in settings.get("products", {}).items():
            if arguments.product and name not in arguments.product:
                continue
            root = Path(table["root"]).expanduser()
            try:
                files.check(root)
                product = read_product(name, root, journal, orders.known)
                stones = _tombstones(files, name, root)
                beside = with_tombstones(orders, fleet, stones).in_force()
                _guard_one(product, (orders.in_force(), beside), memory, limits, (files, arguments))
            # One product's odd facts must not keep the others unguarded.
            except (DoubtError, OSError, sqlite3.Error, ValueError, KeyError, TypeError) as doubt:
                _say(f"{name}: in doubt, so nothing is changed: {doubt}")
    finally:
        journal.close()
    if not arguments.dry_run:
        memory.save()


def _guard_one(
    product: Product,
    halts: tuple[list[Halt], list[Halt]],
    memory: Memory,
    limits: dict[str, Any],
    run: tuple[Files, argparse.Namespace],
) -> None:
    files, arguments = run
    recorded, beside = halts
    starts = 0
    # At boot all are looked at and none is started; who starts one product names it.
    if arguments.product:
        starts = memory.count(product, time.time(), float(limits.get("within_s", WITHIN_S)))
    crashes = int(limits.get("crashes", CRASHES))
    # What lies beside the product was verified by nobody, for the keys are not read here. It may
    # ask for a step and rule out where one leads to; the step that the log asks for is taken.
    step = decide(product, beside, starts, crashes)
    if isinstance(step, str):
        step = decide(product, recorded, starts, crashes)
    if isinstance(step, str):
        _say(f"{product.name}: {step}")
    elif memory.has_landed(product) and not step.is_halted:
        _say(f"{product.name}: {step.why}, but this is where the guard's own last step led to")
    elif arguments.dry_run:
        to = product.releases[step.to].version
        _say(f"{product.name}: {step.why}; would step back to {to}")
    else:
        memory.note_step(step)
        memory.save()
        take(step, files)
        _say(f"{product.name}: {step.why}; stepped back to {product.releases[step.to].version}")


def _memory_of(files: Files, path: Path) -> bytes:
    """The guard's own memory; a halt is obeyed without it."""
    try:
        return files.read(path)
    except DoubtError as doubt:
        _say(f"what it remembers cannot be read, so it begins anew: {doubt}")
        return b""


def _tombstones(files: Files, name: str, root: Path) -> list[bytes]:
    """The copies of halts that lie beside a product; what cannot be read is said and left out."""
    folder = root / TOMBSTONES
    found: list[bytes] = []
    failures: list[str] = []
    try:
        for each in (folder.parent, folder):
            files.check(each)
        names = sorted(_names_in(folder), key=lambda each: (not _ORDER_NAME.fullmatch(each), each))
    except FileNotFoundError:
        return []
    except (DoubtError, OSError) as doubt:
        names = []
        failures.append(str(doubt))
    for order in names:
        try:
            found.append(files.read(folder / order, _ORDER_BYTES_MAX))
        except DoubtError as doubt:
            failures.append(str(doubt))
    if failures:
        _say(f"{name}: {len(failures)} halt(s) beside it cannot be read: {failures[0]}")
    return found


def _names_in(folder: Path) -> list[str]:
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _LIKE_ONE.fullmatch(entry.name):
                names.append(entry.name)
            if len(names) >= _TOMBSTONES_MAX:
                break
    return names


def _say(line: str) -> None:
    print(f"firedoor guard: {line}", flush=True)  # noqa: T201  # the program's answer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
