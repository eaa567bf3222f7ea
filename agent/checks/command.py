"""Check `command`: a program that exits 0 when the release is well.

It runs without a shell, in the release's own folder, and is killed with all that it started when
its time is over.
"""

import asyncio
import os
import shlex
import signal
import sys
from contextlib import suppress
from pathlib import Path

from agent.checks.contract import CheckResult
from firedoor.units import Span

# Enough of what it said for a person to start from.
_SAID_BYTES = 300


async def run_check(command: str, *, folder: Path, timeout: Span) -> CheckResult:  # noqa: ASYNC109
    """Run one check once. A command that cannot start or end in time is not well."""
    try:
        words = shlex.split(command)
        process = await asyncio.create_subprocess_exec(
            *words,
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "FIREDOOR_VERSION_FOLDER": str(folder)},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return CheckResult(is_well=False, detail=f"cannot start: {error}")
    try:
        async with asyncio.timeout(timeout):
            said, _ = await process.communicate()
    except TimeoutError:
        return CheckResult(is_well=False, detail=f"did not end within {timeout:.0f} s")
    finally:
        await _end(process)
    if process.returncode == 0:
        return CheckResult(is_well=True)
    text = said[-_SAID_BYTES:].decode(errors="replace").strip()
    return CheckResult(is_well=False, detail=f"exit code {process.returncode}: {text}")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
