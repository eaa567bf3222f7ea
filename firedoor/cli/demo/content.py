"""What the demo publishes: two real consecutive releases, a bad one, and one that mends it.

Two releases that pip can fetch (tried for ten seconds), else two folders of the standard library,
the second edited by a recorded script. The bad release adds a large content file, as the file of
19 July 2024 was one, and a check that notices it late.
"""

import asyncio
import shutil
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from hashlib import shake_128
from pathlib import Path

# Two releases of one day's work apart, pure Python, a few megabytes unpacked.
_PACKAGE = "pip"
_VERSIONS = ("25.2", "25.3")
_FETCH_SPAN_S = 10.0

# Large enough that a capped endpoint is still fetching when a fast one has already failed.
_BAD_BYTES = 24 << 20
_MANUAL_BYTES = 4 << 20

# Well for a moment, then not: the fault that a quick check does not see.
CHECK = """\
import pathlib, sys, time
bad = pathlib.Path("content/channel-291.bin")
sys.exit(1 if bad.exists() and time.time() - bad.stat().st_mtime > 1.0 else 0)
"""


@dataclass(frozen=True, slots=True)
class Content:
    """Folders to publish, and where the first two come from."""

    old: Path
    new: Path
    bad: Path
    fixed: Path
    manuals: Path
    source: str


async def make_content(
    folder: Path, given: tuple[Path | None, Path | None, Path | None]
) -> Content:
    """Lay the demo's releases out under `folder`; `given`: old, new, bad from the user."""
    old, new, bad = given
    source = "given folders"
    if old is None or new is None:
        found = await _fetched(folder)
        source = f"{_PACKAGE} {_VERSIONS[0]} and {_VERSIONS[1]}" if found else "standard library"
        pair = found or _copied(folder)
        old, new = old or pair[0], new or pair[1]
    return await asyncio.to_thread(_rest, folder, (old, new, bad), source)


def _rest(folder: Path, trees: tuple[Path, Path, Path | None], source: str) -> Content:
    old, new, bad = trees
    made = [_copy(old, folder / "old"), _copy(new, folder / "new")]
    for each in made:
        (each / "check.py").write_text(CHECK, "utf-8")
    broken = _copy(bad or made[1], folder / "bad")
    (broken / "check.py").write_text(CHECK, "utf-8")
    (broken / "content").mkdir(exist_ok=True)
    (broken / "content" / "channel-291.bin").write_bytes(_noise(_BAD_BYTES, 291))
    fixed = _copy(made[1], folder / "fixed")
    (fixed / "content").mkdir(exist_ok=True)
    (fixed / "content" / "channel-292.bin").write_bytes(_noise(1 << 20, 292))
    manuals = folder / "manuals"
    manuals.mkdir()
    (manuals / "manual.pdf").write_bytes(_noise(_MANUAL_BYTES, 7))
    return Content(made[0], made[1], broken, fixed, manuals, source)


async def _fetched(folder: Path) -> tuple[Path, Path] | None:
    """Both releases by pip, or None when it cannot in time."""
    trees: list[Path] = []
    try:
        async with asyncio.timeout(_FETCH_SPAN_S):
            for version in _VERSIONS:
                wheels = folder / f"wheel-{version}"
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                    *("--disable-pip-version-check", "--retries", "0", "--only-binary", ":all:"),
                    *("--dest", str(wheels), f"{_PACKAGE}=={version}"),
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
                try:
                    if await process.wait() != 0:
                        return None
                finally:
                    if process.returncode is None:
                        process.kill()
                        await process.wait()
                tree = folder / f"tree-{version}"
                with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
                    wheel.extractall(tree)
                trees.append(tree)
    except TimeoutError:
        return None
    return trees[0], trees[1]


def _copied(folder: Path) -> tuple[Path, Path]:
    """Folders of the standard library, and the same with one line added to every tenth file."""
    library = Path(sysconfig.get_paths()["stdlib"])
    old, new = folder / "tree-old", folder / "tree-new"
    for name in ("asyncio", "email", "json", "http", "urllib", "unittest"):
        shutil.copytree(library / name, old / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(old, new)
    for number, path in enumerate(sorted(new.rglob("*.py"))):
        if number % 10 == 0:
            path.write_text(path.read_text("utf-8") + "# the next release\n", "utf-8")
    return old, new


def _copy(tree: Path, to: Path) -> Path:
    if tree.is_dir():
        shutil.copytree(tree, to, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        to.mkdir()
        shutil.copy(tree, to / tree.name)
    return to


def _noise(size: int, seed: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return shake_128(seed.to_bytes(8, "big")).digest(size)
