"""Who runs checks here: a user of their own, or the agent's where the settings say so, or nobody.

A check is a program of whoever signs releases. As the agent's user it owns the agent: its identity,
its orders, the switch of each product. The administrator's own checks count too, for they run what
lies below a product's root.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from agent.checks.command import LocalChecks, account_of
from agent.checks.contract import CheckResult
from agent.checks.helper_checks import HELPER_SOCKET, HelperChecks, is_there
from firedoor.errors import FiredoorError
from firedoor.runtime.settings import AgentSettings
from firedoor.units import Span

NO_CHECK_USER = "no check user"
"""How status names it when checks cannot run apart; `firedoor status` counts the machines."""


class Runner(Protocol):
    """Runs one check once."""

    async def run(
        self,
        command: str,
        *,
        folder: Path,
        span: Span,
        product: str = "",
    ) -> CheckResult:
        """How the check of `product` ended, whose files are in `folder`."""


class Checks:
    """The checks of one agent. `uid`: the user that it runs as, or will."""

    def __init__(
        self, settings: AgentSettings, *, uid: int | None = None, helper: Path = HELPER_SOCKET
    ) -> None:
        self._settings = settings
        self._uid = own_uid() if uid is None else uid
        self._helper = helper
        self._local: Runner | None = None
        self._reason = ""
        if settings.check_user and self._uid == 0:
            try:
                self._local = LocalChecks(account_of(settings.check_user))
            except FiredoorError as error:
                self._reason = str(error)
        self._as_agent = LocalChecks(None)
        self._by_helper = HelperChecks(helper)

    def hindrance(self, checks: Sequence[str]) -> str:
        """Why releases with these checks are held back; empty: they are not."""
        return "" if not checks or self._runner() is not None else self._wanting()

    async def run(
        self,
        command: str,
        *,
        folder: Path,
        span: Span,
        product: str = "",
    ) -> CheckResult:
        """Run one check once, apart from the agent where that can be had."""
        runner = self._runner()
        if runner is None:
            return CheckResult(is_well=False, detail=self._wanting())
        return await runner.run(command, folder=folder, span=span, product=product)

    def _runner(self) -> Runner | None:
        if self._local is not None:
            return self._local
        # The helper may be installed, and taken away, while the agent runs.
        if self._uid != 0 and is_there(self._helper):
            return self._by_helper
        return self._as_agent if self._settings.checks_run_as_agent else None

    def _wanting(self) -> str:
        if self._reason:
            return f"{NO_CHECK_USER} ({self._reason})"
        if self._uid == 0:
            return f"{NO_CHECK_USER} (the agent is root: name one by check_user)"
        return f"{NO_CHECK_USER} (the agent is not root, and firedoor-helper.socket is not there)"


def own_uid() -> int:
    """The user of this process; where there are no such numbers one that is not root."""
    return os.geteuid() if hasattr(os, "geteuid") else -1


def uid_of(state: Path) -> int:
    """The user that an agent with this state folder runs as, as far as can be told beforehand."""
    try:
        return state.lstat().st_uid if hasattr(os, "geteuid") else -1
    except OSError:
        return own_uid()
