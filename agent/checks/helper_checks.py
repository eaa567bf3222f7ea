"""Checks by the root helper of this machine, for an agent that is not root (../../helper)."""

import asyncio
import json
import os
import shlex
import socket
import stat
import struct
import sys
from pathlib import Path
from typing import Any

from agent.checks.command import result_of
from agent.checks.contract import CheckResult
from firedoor.units import KIB, Span

HELPER_SOCKET = Path("/run/firedoor/helper.sock")

_REQUEST_BYTES_MAX = 8 * KIB
_ANSWER_BYTES_MAX = 8 * KIB


def is_there(path: Path) -> bool:
    """Whether a helper listens at `path`, in a folder that nobody but root can change."""
    if sys.platform != "linux":
        return False
    try:
        folder, found = path.parent.lstat(), path.lstat()
    except OSError:
        return False
    is_roots = folder.st_uid == 0 and not folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISSOCK(found.st_mode) and is_roots and os.access(path, os.W_OK)


class HelperChecks:
    """Asks the helper to run each check; which user, folder and span are its own to say."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # The helper runs one at a time; the span of each begins with its turn.
        self._turn = asyncio.Lock()

    async def run(
        self,
        command: str,
        *,
        folder: Path,
        span: Span,
        product: str = "",
    ) -> CheckResult:
        """Run one check once. The helper takes the folder from the product's own switch."""
        del folder
        try:
            request = {"verb": "check", "product": product, "argv": shlex.split(command)}
            line = json.dumps(request).encode() + b"\n"
            if len(line) > _REQUEST_BYTES_MAX:
                return CheckResult(is_well=False, detail="cannot start: the command is too long")
            async with self._turn, asyncio.timeout(span):
                answer = await self._ask(line)
            said: dict[str, Any] = json.loads(answer)
            if said.get("error"):
                return result_of(None, "", f"the helper says: {str(said['error'])[:200]}")
            return result_of(int(said["code"]), str(said["said"]), "")
        except TimeoutError:
            # The helper ends a check whose asker has gone.
            return CheckResult(is_well=False, detail=f"did not end within {span:g} s")
        except (OSError, ValueError, KeyError, TypeError) as error:
            return CheckResult(is_well=False, detail=f"cannot start: the helper: {error}")

    async def _ask(self, line: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        try:
            _require_root(writer.get_extra_info("socket"))
            writer.write(line)
            await writer.drain()
            return await reader.read(_ANSWER_BYTES_MAX)
        finally:
            writer.close()


def _require_root(connection: socket.socket) -> None:
    """Nothing, if root listens there; else OSError."""
    if sys.platform == "linux":
        size = struct.calcsize("3i")
        said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        _, uid, _ = struct.unpack("3i", said)
        if uid != 0:
            raise PermissionError(f"it is user {uid}, and no helper")
