"""Check `command`: a program that exits 0 when the release is well.

It runs without a shell, in the release's own folder, with little of the agent's environment, and
is killed with all that it started when its time is over (on Windows: itself only; untested there).
"""

import asyncio
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path

from agent.checks.contract import CheckResult
from firedoor.units import KIB, Span

# Enough of what it said for a person to start from.
_SAID_BYTES = 300

# A killed group closes its output at once; what escaped it is not waited for longer than this.
_CLOSE_SPAN_S = 1.0

# What programs need to find each other, their language and a place for temporary files; the rest
# of the agent's environment may hold what a release should not read.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT", "TEMP", "TMP")


async def run_check(command: str, *, folder: Path, timeout: Span) -> CheckResult:  # noqa: ASYNC109
    """Run one check once. A command that cannot start or end in time is not well."""
    try:
        program, *arguments = shlex.split(command)
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=_environment(folder),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return CheckResult(is_well=False, detail=f"cannot start: {error}")
    has_ended = False
    try:
        async with asyncio.timeout(timeout):
            said = await _tail(process)
            code = await process.wait()
            has_ended = True
    except TimeoutError:
        return CheckResult(is_well=False, detail=f"did not end within {timeout:g} s")
    finally:
        if not has_ended:
            await _kill(process)
    if code == 0:
        return CheckResult(is_well=True)
    text = said.decode(errors="replace").strip()
    return CheckResult(is_well=False, detail=f"exit code {code}: {text}")


def _environment(folder: Path) -> dict[str, str]:
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**passed_on, "FIREDOOR_VERSION_FOLDER": str(folder)}


async def _tail(process: asyncio.subprocess.Process) -> bytes:
    """The end of what it says, however much that is."""
    assert process.stdout is not None
    said = b""
    while part := await process.stdout.read(KIB):
        said = (said + part)[-_SAID_BYTES:]
    return said


async def _kill(process: asyncio.subprocess.Process) -> None:
    # The whole group, even where the program itself has ended: what it left behind still holds
    # its output, or there would have been no time-out.
    # A check that became another user cannot be killed by us; it is left behind, not waited for.
    with suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    with suppress(OSError):
        process.kill()
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_SPAN_S):
            await process.wait()
    # What the dead still held of its output closes now; what left the group may hold it longer.
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_SPAN_S):
            await _tail(process)
