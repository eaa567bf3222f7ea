"""Which handlers there are, and what each can do: known to publishers and to endpoints alike.

The programs of the handlers are the agent's (agent/handlers/registry.py has one for each name).
"""

from dataclasses import dataclass

from firedoor.errors import Malformed


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a handler can do. The agent reads `can_abort` and `can_step_back`, not yet the others.

    `is_atomic`: what runs is the old release or the new one, never a mixture; `can_abort`: a
    staging can be stopped at any piece; `can_step_back`: an older release can be made current
    again; `needs_reboot`: a release runs only after the machine has started again.
    """

    is_atomic: bool
    can_abort: bool
    can_step_back: bool
    needs_reboot: bool


HANDLERS = {
    # Folders side by side, and a link that is replaced in one step.
    "files": Capabilities(is_atomic=True, can_abort=True, can_step_back=True, needs_reboot=False),
}


def checked_handler(what: str, name: str) -> str:
    """`name`, if there is such a handler.

    Raises:
        Malformed: there is none.
    """
    if name not in HANDLERS:
        wanted = " or ".join(f'"{each}"' for each in sorted(HANDLERS))
        raise Malformed(what, wanted=wanted, got=repr(name))
    return name
