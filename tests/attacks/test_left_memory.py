"""A check that has ended holds nothing: no memory, which only a restart gives back, and no disk.

Shared memory and files outlive the process that made them; whoever signs releases fills each
endpoint by them, a release at a time, and no halt empties it.
"""

import asyncio
import ctypes
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.checks.command import LocalChecks, account_of
from firedoor.units import MIB, Span

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0, reason="checks of another user need root"
    ),
]

# A user that nothing else runs as on a machine that tests.
USER = "news"

# A thief takes all that there is; this shows it and harms nothing.
SIZE = 8 * MIB

_IPC_RMID = 0

SEGMENT = f"""
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
at = libc.shmat(libc.shmget(0, {SIZE}, 0o1600), None, 0)
ctypes.memset(at, 1, {SIZE})
"""

FILE = f"""
import pathlib, sys
path = pathlib.Path(sys.argv[1]) / "firedoor-left"
path.write_bytes(bytes([1]) * {SIZE})
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A release's folder that other users can pass through; what its check left is removed."""
    made = Path(tempfile.mkdtemp(prefix="firedoor-check-"))
    made.chmod(0o755)
    yield made
    for segment in segments():
        ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)
    for place in ("/dev/shm", "/tmp", "/var/tmp"):  # the places that all share
        for path in left_in(Path(place)):
            path.unlink()
    shutil.rmtree(made)


def segments() -> list[int]:
    """The shared memory of the user that runs checks."""
    uid = str(pwd.getpwnam(USER).pw_uid)
    rows = [line.split() for line in Path("/proc/sysvipc/shm").read_text("ascii").splitlines()[1:]]
    return [int(row[1]) for row in rows if row[7] == uid]


def left_in(place: Path) -> list[Path]:
    """The files of that user right below a folder that all share."""
    uid, found = pwd.getpwnam(USER).pw_uid, []
    for path in place.iterdir():
        with suppress(OSError):
            if path.lstat().st_uid == uid:
                found.append(path)
    return found


def run_check(folder: Path, program: str, *words: str) -> None:
    """One release's check, which ends well."""
    (folder / "attack.py").write_text(program, "utf-8")
    # Whatever the umask is that a program of ours has set here.
    (folder / "attack.py").chmod(0o644)
    command = " ".join(["/usr/bin/python3 attack.py", *words])
    checks = LocalChecks(account_of(USER))
    result = asyncio.run(checks.run(command, folder=folder, span=Span(10.0)))
    assert result.is_well, result.detail


def test_the_shared_memory_of_a_check_goes_with_it(folder: Path) -> None:
    run_check(folder, SEGMENT)
    assert segments() == []


@pytest.mark.parametrize("place", ["/dev/shm", "/tmp", "/var/tmp"])  # all share them
def test_the_files_that_a_check_has_left_go_with_it(folder: Path, place: str) -> None:
    run_check(folder, FILE, place)
    assert left_in(Path(place)) == []
