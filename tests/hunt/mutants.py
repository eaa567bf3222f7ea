"""Each check that holds an attack off is removed once, and some test must fail.

A check is an `if` that only refuses, in trust/, halt/, the routes or the guard. Each mutant runs
only the tests that import its file, or else what imports it, until one fails. What no test notices
is a survivor; the list of them (survivors.txt) may only shrink.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

PLACES = (
    "firedoor/trust",
    "firedoor/halt",
    "firedoor/runtime/network/peer_server.py",
    "firedoor/runtime/host/service.py",
    "mirror/api",
    "mirror/origin/repository.py",
    "mirror/origin/release_lists.py",
    "mirror/origin/rotation.py",
    "agent/guard/guard.py",
    "agent/guard/files.py",
    "agent/guard/records.py",
)

SURVIVORS = ROOT / "tests" / "hunt" / "survivors.txt"

# Tests of one file run within this; a mutant that hangs is noticed, too.
SPAN_S = 300.0


@dataclass(frozen=True, slots=True)
class Mutant:
    """One check of a file. `text`: its condition; `line`: where it stands today."""

    path: str
    line: int
    text: str

    @property
    def name(self) -> str:
        """The same after lines above it have come or gone."""
        return f"{self.path}: {self.text}"


def mutants() -> list[Mutant]:
    """Every check that can be removed, in order of file and line."""
    found = []
    for place in PLACES:
        path = ROOT / place
        for each in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            source = each.read_text("utf-8")
            name = each.relative_to(ROOT).as_posix()
            found += [
                Mutant(name, check.lineno, ast.unparse(check.test))
                for check in checks(ast.parse(source))
            ]
    return found


def checks(tree: ast.AST) -> Iterator[ast.If]:
    """Ifs without an else whose body only refuses: it raises, or answers with nothing good."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and not node.orelse and _refuses(node.body[-1]):
            yield node


def _refuses(last: ast.stmt) -> bool:
    if isinstance(last, ast.Raise):
        return True
    if not isinstance(last, ast.Return):
        return False
    value = last.value
    is_empty = isinstance(value, ast.List | ast.Tuple | ast.Set) and not value.elts
    return value is None or is_empty or (isinstance(value, ast.Constant) and not value.value)


def without(source: str, mutant: Mutant) -> str:
    """The source in which this check never refuses."""
    tree = ast.parse(source)
    for check in checks(tree):
        if check.lineno == mutant.line:
            check.test = ast.Constant(value=False)
    return ast.unparse(ast.fix_missing_locations(tree))


def tests_of(path: str) -> list[str]:
    """The test files that import a file, or else what imports it; units first."""
    files = [each for each in sorted((ROOT / "tests").rglob("test_*.py")) if _is_quick(each)]
    found = _importing(path, files)
    if not found:
        packages = ("firedoor", "mirror", "agent")
        own = [each for name in packages for each in sorted((ROOT / name).rglob("*.py"))]
        above = [each.relative_to(ROOT).as_posix() for each in _importing(path, own)]
        found = [each for name in above for each in _importing(name, files)]
    names = dict.fromkeys(each.relative_to(ROOT).as_posix() for each in found)
    return sorted(names, key=lambda name: not name.startswith("tests/unit"))


def _importing(path: str, files: list[Path]) -> list[Path]:
    module = path.removesuffix(".py").replace("/", ".")
    parent, _, last = module.rpartition(".")
    words = (f"from {module} import", f"import {module}\n", f"from {parent} import {last}")
    return [each for each in files if any(word in each.read_text("utf-8") for word in words)]


def _is_quick(path: Path) -> bool:
    return "pytest.mark.live" not in path.read_text("utf-8") and "systemd" not in path.parts


def hunt(*, times: int, seed: int) -> dict[str, Any]:
    """Try so many mutants (0: all), in an order of `seed`; who survives that was not known to."""
    known = set(SURVIVORS.read_text("utf-8").splitlines()) if SURVIVORS.exists() else set()
    every = mutants()
    chosen = every if not times else Random(seed).sample(every, min(times, len(every)))
    survivors: list[str] = []
    for mutant in chosen:
        if not _is_noticed(mutant):
            survivors.append(mutant.name)
            print(f"survives: {mutant.name}", file=sys.stderr, flush=True)
    gone = known - {each.name for each in every}
    return {
        "mutants": len(chosen),
        "survivors": len(survivors),
        "new": sorted(set(survivors) - known),
        "to_take_out": sorted(gone),
    }


def _is_noticed(mutant: Mutant) -> bool:
    path = ROOT / mutant.path
    source = path.read_text("utf-8")
    tests = tests_of(mutant.path)
    if not tests:
        return False
    try:
        path.write_text(without(source, mutant), "utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, timeout=SPAN_S)
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(source, "utf-8")
    return done.returncode != 0
