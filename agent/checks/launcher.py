"""Runs one check and ends all that it has started, whatever its exit code: a program of its own.

    python3 -I launcher.py USER SECONDS PROGRAM [ARGUMENT...]

USER is `UID:GID` of the user that checks have to themselves, or `-` for the agent's own. The folder
that it is started in is the check's. It ends early when its standard input closes, and answers one
line of JSON: `code` (null: it did not end in time), `said` (the end of its output), `error`.

* With a user of its own a check runs in namespaces of its own (processes, shared memory, temporary
  folders), which end with it, whatever it has let go or stopped. Where there can be none, all that
  this user still runs is ended by kill(-1), and what it left in temporary folders is removed.
* Without one what is left of the check's descendants is ended, on Linux; elsewhere its group (on
  Windows: itself). What runs as the agent's user can do whatever that user can, and end this, too.

Standard library only: it starts in a moment, and before a check runs.
"""

import ctypes
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
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

# prctl(2), unshare(2), mount(2).
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWNS = 0x00020000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWPID = 0x20000000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 16_384, 1 << 18

# Where whoever runs may leave files, and how much of each a check may have for a while.
_SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  # they are hidden, not used
_SHARED_BYTES = 64 << 20

# Where those listen who would run something for a check outside of it.
_HIDDEN_FOLDERS = ("/run/dbus", "/run/systemd", "/run/user", "/run/firedoor")


def main(words: list[str]) -> int:
    """Run the check; the exit code of this program, which is not the check's."""
    user, seconds, *command = words
    account = None if user == "-" else tuple(int(each) for each in user.split(":"))
    _confine(has_user=account is not None)
    if account is not None and _has_own_namespaces():
        _run_inside(command, float(seconds), account)
        return 0
    # What an earlier agent was killed over may still be there.
    _end_all(account)
    answer = _run(command, float(seconds), account)
    _end_all(account)
    if account is not None:
        _sweep(account[0], _SHARED_FOLDERS)
    print(json.dumps(answer), flush=True)  # noqa: T201  # the answer
    return 0


def _has_own_namespaces() -> bool:
    """Whether what is started from here on has processes, shared memory and mounts of its own."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.unshare(_CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWPID) == 0)


def _run_inside(command: list[str], seconds: float, account: tuple[int, ...]) -> None:
    """Run it below a first process of its own, with whose end the system ends all of it."""
    first = os.fork()
    if not first:
        code = 1
        try:
            shared = _hide_shared_folders()
            print(json.dumps(_run(command, seconds, account)), flush=True)  # noqa: T201  # the answer
            code = 0
        finally:
            _sweep(account[0], shared)
            os._exit(code)
    deadline = time.monotonic() + seconds + OUTPUT_S + _GONE_S
    while os.waitpid(first, os.WNOHANG)[0] == 0:
        if time.monotonic() >= deadline:
            os.kill(first, signal.SIGKILL)
        time.sleep(_LOOK_S)


def _hide_shared_folders() -> list[str]:
    """Put empty ones in their place, of a bounded size; those that stay as they are."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    libc.mount(b"proc", b"/proc", b"proc", _MS_NOSUID | _MS_NODEV, None)
    for name in _HIDDEN_FOLDERS:
        libc.mount(b"tmpfs", name.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=0755,size=4k")
    here, left = os.getcwd(), []  # noqa: PTH109  # as a text, without a look at it
    for name in _SHARED_FOLDERS:
        # The release itself may lie there.
        is_ours = here == name or here.startswith(f"{name}/")
        options = _MS_NOSUID | _MS_NODEV
        size = f"mode=1777,size={_SHARED_BYTES}".encode()
        if is_ours or libc.mount(b"tmpfs", name.encode(), b"tmpfs", options, size) != 0:
            left.append(name)
    return left


def _sweep(uid: int, names: Iterable[str]) -> None:
    """Remove what this user has in folders that all share; none of its processes is left."""
    for name in names:
        with suppress(OSError):
            for entry in list(os.scandir(name)):
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid != uid:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path, ignore_errors=True)
                    else:
                        os.unlink(entry.path)  # noqa: PTH108  # an entry of scandir


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
    """SIGKILL to all that this user runs, by a process of that user: none can be between.

    What this user runs may stop it before it has, so it is not waited for: another one comes.
    """
    pid = os.fork()
    if pid:
        deadline = time.monotonic() + _LOOK_S * 5
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() >= deadline:
                for each in [*_processes_of(account[0])]:
                    with suppress(OSError):
                        os.kill(each, signal.SIGKILL)
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)
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
