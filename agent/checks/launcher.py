"""Runs one check and ends all that it has started, whatever its exit code: a program of its own.

    python3 -I launcher.py USER SECONDS PROGRAM [ARGUMENT...]

USER is `UID:GID` of the user that checks have to themselves, or `-` for the agent's own. The folder
that it is started in is the check's. It ends early when its standard input closes, and answers one
line of JSON: `code` (null: it did not end in time), `said` (the end of its output), `error`.

* With a user of its own nothing of that user is left: kill(-1) reaches what setsid has let go.
* Without one what is left of the check's descendants is ended, on Linux; elsewhere its group (on
  Windows: itself). What runs as the agent's user can do whatever that user can, and end this, too.

Standard library only: it starts in a moment, and before a check runs.
"""

import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

SAID_BYTES = 300

# What holds its output open after the check's end is waited for no longer than this.
OUTPUT_S = 1.0

# What was killed is gone at once; what a disk holds back is not waited for.
_GONE_S = 3.0
_LOOK_S = 0.02

# Processes of a user that has checks alone.
_PROCESSES_MAX = 512

_READ_BYTES = 65_536

# prctl(2).
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38


def main(words: list[str]) -> int:
    """Run the check; the exit code of this program, which is not the check's."""
    user, seconds, *command = words
    account = None if user == "-" else tuple(int(each) for each in user.split(":"))
    _confine(has_user=account is not None)
    # What an earlier agent was killed over may still be there.
    _end_all(account)
    answer = _run(command, float(seconds), account)
    _end_all(account)
    print(json.dumps(answer), flush=True)  # noqa: T201  # the answer
    return 0


def _confine(*, has_user: bool) -> None:
    """No program of the check gains another user, and what it lets go stays below this one."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if has_user:
        import resource  # noqa: PLC0415  # POSIX only, as are users

        resource.setrlimit(resource.RLIMIT_NPROC, (_PROCESSES_MAX, _PROCESSES_MAX))


def _run(command: list[str], seconds: float, account: tuple[int, ...] | None) -> dict[str, object]:
    try:
        process = subprocess.Popen(  # noqa: S603  # what was signed, without a shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o022,
            user=account[0] if account else None,
            group=account[1] if account else None,
            extra_groups=[] if account else None,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as refusal:
        return {"code": None, "said": "", "error": f"cannot start: {refusal}"}
    hear = _hear_on_windows if sys.platform == "win32" else _hear
    said, is_wanted = hear(process, seconds)
    code = process.poll()
    error = "" if code is not None else f"did not end within {seconds:g} s"
    if sys.platform != "linux":
        # Nothing tells there what a check has started: its group, and no more.
        with suppress(OSError):
            process.kill() if sys.platform == "win32" else os.killpg(process.pid, signal.SIGKILL)
    text = said[-SAID_BYTES:].decode(errors="replace")
    return {"code": code, "said": text, "error": error if is_wanted else "it was ended"}


def _hear(process: "subprocess.Popen[bytes]", seconds: float) -> tuple[bytes, bool]:
    """The end of what it says until it ends or its time does; whether it is still wanted."""
    said, is_open = b"", True
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            if process.poll() is not None:
                if not is_open:
                    break
                deadline = min(deadline, time.monotonic() + OUTPUT_S)
            for key, _ in selector.select(_LOOK_S):
                part = os.read(key.fd, _READ_BYTES)
                if key.fileobj is sys.stdin:
                    return said, False
                said = (said + part)[-SAID_BYTES:]
                if not part:
                    is_open = False
                    selector.unregister(process.stdout)
    return said, True


def _hear_on_windows(process: "subprocess.Popen[bytes]", seconds: float) -> tuple[bytes, bool]:
    try:
        return process.communicate(timeout=seconds)[0], True
    except subprocess.TimeoutExpired as error:
        return error.output or b"", True


def _end_all(account: tuple[int, ...] | None) -> None:
    """End what is left, and wait until it is gone."""
    deadline = time.monotonic() + _GONE_S
    while True:
        if account is not None:
            _kill_as(account)
            left = any(_processes_of(account[0]))
        else:
            found = [*_descendants()]
            for pid in found:
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            left = bool(found)
        _reap()
        if not left or time.monotonic() >= deadline:
            return
        time.sleep(_LOOK_S)


def _kill_as(account: tuple[int, ...]) -> None:
    """SIGKILL to all that this user runs, by a process of that user: none can be between."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    try:
        os.setgroups([])
        os.setgid(account[1])
        os.setuid(account[0])
        os.kill(-1, signal.SIGKILL)
    except OSError:
        pass  # There was none.
    finally:
        os._exit(0)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _processes_of(uid: int) -> Iterator[int]:
    for pid, status in _processes():
        if f"\nUid:\t{uid}\t" in status and "\nState:\tZ" not in status:
            yield pid


def _descendants() -> list[int]:
    parents = {pid: _number(status, "PPid") for pid, status in _processes()}
    me, found = os.getpid(), []
    for pid, parent in parents.items():
        above = parent
        while above not in {0, 1, me} and above in parents:
            above = parents[above]
        if above == me:
            found.append(pid)
    return found


def _processes() -> Iterator[tuple[int, str]]:
    """Every process and its status; none where the system does not say."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield int(folder.name), (folder / "status").read_text("utf-8", errors="replace")


def _number(status: str, name: str) -> int:
    return int(status.partition(f"\n{name}:\t")[2].partition("\n")[0] or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
