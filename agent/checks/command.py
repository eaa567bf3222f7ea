"""Checks that the agent runs itself, one at a time, by a launcher that ends all of each.

A check runs without a shell, in the release's own folder, with little of the agent's environment
and none of its open files (launcher.py; untested on Windows and macOS).
"""

import asyncio
import json
import os
import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.checks.contract import CheckResult
from firedoor.errors import Malformed, Unavailable
from firedoor.units import Span

# A check's last words come to a launcher that has three seconds to end what is left.
_MARGIN_S = 8.0

# A launcher that was told to stop ends all of its check first.
_END_S = 6.0

# The launcher's answer: the last words of a check, each byte written as six in JSON.
_ANSWER_BYTES_MAX = 4096

# What programs need to find each other, their language and a place for temporary files; the rest
# of the agent's environment may hold what a release should not read.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT", "TEMP", "TMP")

# These are the agent's own, and another user cannot use them.
_PASSED_ON_AS_AGENT = ("HOME", "TMPDIR")


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine that runs checks and nothing else."""

    name: str
    uid: int
    gid: int


def account_of(name: str) -> Account:
    """The user of this name.

    Raises:
        Unavailable: this machine has no such user.
        Malformed: it is root, or the agent's own.
    """
    if sys.platform == "win32":
        raise Unavailable("check_user", why="this system has no such users")
    import pwd  # noqa: PLC0415  # POSIX only

    try:
        found = pwd.getpwnam(name)
    except KeyError as error:
        raise Unavailable(f"check_user {name}", why="this machine has no such user") from error
    if found.pw_uid in {0, os.geteuid()}:
        got = f"{name}, which is " + ("root" if found.pw_uid == 0 else "the agent's own")
        raise Malformed("check_user", wanted="a user that nothing else runs as", got=got)
    return Account(name, found.pw_uid, found.pw_gid)


class LocalChecks:
    """Runs checks as `account`, or as the agent's own user."""

    def __init__(self, account: Account | None) -> None:
        self._account = account
        # After a check all processes of its user are ended, those of another check with them.
        self._turn = asyncio.Lock()

    async def run(
        self,
        command: str,
        *,
        folder: Path,
        span: Span,
        product: str = "",
    ) -> CheckResult:
        """Run one check once. A command that cannot start or end in time is not well."""
        del product
        try:
            words = shlex.split(command)
            if not words:
                return CheckResult(is_well=False, detail="cannot start: an empty command")
            async with self._turn:
                return _result(await self._launched(words, folder, span))
        except (OSError, ValueError) as error:
            return CheckResult(is_well=False, detail=f"cannot start: {error}")

    async def _launched(self, words: list[str], folder: Path, span: Span) -> bytes:
        user = f"{self._account.uid}:{self._account.gid}" if self._account else "-"
        launcher = Path(__file__).with_name("launcher.py")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(launcher), user, f"{span:.3f}", *words),
            cwd=folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._environment(folder),
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(span + _MARGIN_S):
                return await process.stdout.read(_ANSWER_BYTES_MAX)
        except TimeoutError:
            return b""
        finally:
            # Whoever ends this early has a launcher that still has to end the check.
            process.stdin.close()
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_END_S):
                        await process.wait()
            finally:
                with suppress(ProcessLookupError):
                    process.kill()

    def _environment(self, folder: Path) -> dict[str, str]:
        names = _PASSED_ON if self._account else (*_PASSED_ON, *_PASSED_ON_AS_AGENT)
        passed_on = {name: os.environ[name] for name in names if name in os.environ}
        home = {"HOME": "/"} if self._account else {}
        return {**home, **passed_on, "FIREDOOR_VERSION_FOLDER": str(folder)}


def _result(answer: bytes) -> CheckResult:
    """What a launcher has answered."""
    try:
        said: dict[str, Any] = json.loads(answer)
        code, text, error = said["code"], str(said["said"]), str(said["error"])
    except (ValueError, KeyError, TypeError):
        return CheckResult(is_well=False, detail="the program that ran it was ended")
    return result_of(code, text, error)


def result_of(code: int | None, said: str, error: str) -> CheckResult:
    """How a check ended, whoever ran it."""
    if error or code is None:
        return CheckResult(is_well=False, detail=error or "it did not end")
    if code == 0:
        return CheckResult(is_well=True)
    return CheckResult(is_well=False, detail=f"exit code {code}: {said.strip()}")
