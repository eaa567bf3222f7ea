"""What ends a check's processes is, for a moment, a process of the check's own user.

Between its setuid and its kill anything of that user may stop it by SIGSTOP; a stopped process is
waited for without end.
"""

import asyncio
import os
import pwd
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.checks.command import LocalChecks, account_of
from firedoor.units import Span

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0, reason="checks of another user need root"
    ),
]

# A user that nothing else runs as on a machine that tests.
USER = "news"

# One round in two is lost by the thief, who loses nothing by it: the next release tries again.
ROUNDS = 8

# Stops each process that is born after it, as soon as it is one of this user's.
HOSTILE = """
import ctypes, os, time
kill, errno = ctypes.CDLL(None, use_errno=True).kill, ctypes.get_errno
if os.fork():
    time.sleep(0.5)
    os._exit(0)
os.setsid()
os.closerange(0, 256)
os.fork()
fresh, seen = os.getpid() + 2, []
while True:
    for _ in range(40):
        for pid in [*seen]:
            if kill(pid, 19) == 0 or errno() == 3:
                seen.remove(pid)
    ahead = 0
    while ahead < 16:
        if kill(fresh + ahead, 19) and errno() == 1:
            seen = [*seen[-3:], fresh + ahead]
            fresh, ahead = fresh + ahead + 1, 0
        else:
            ahead += 1
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A release's folder that other users can pass through; what its check left is ended."""
    made = Path(tempfile.mkdtemp(prefix="firedoor-check-"))
    made.chmod(0o755)
    (made / "attack.py").write_text(HOSTILE, "utf-8")
    # Whatever the umask is that a program of ours has set here.
    (made / "attack.py").chmod(0o644)
    yield made
    for pid in of_the_check_user():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(made)


def of_the_check_user() -> list[int]:
    """The processes of the user that runs checks, without those that have ended."""
    uid, found = pwd.getpwnam(USER).pw_uid, []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if path.stat().st_uid == uid and "State:\tZ" not in (path / "status").read_text():
                found.append(int(path.name))
    return found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_check_that_stops_what_would_end_it_is_ended_and_other_checks_go_on(
    folder: Path,
) -> None:
    async def story() -> None:
        checks = LocalChecks(account_of(USER))
        for _ in range(ROUNDS):
            hostile = await checks.run("/usr/bin/python3 attack.py", folder=folder, span=Span(2.0))
            assert "can't open" not in hostile.detail
            left = of_the_check_user()
            # A check of another product, of an honest publisher.
            honest = await checks.run("true", folder=folder, span=Span(2.0))
            assert (left, honest.detail) == ([], "")

    asyncio.run(story())
