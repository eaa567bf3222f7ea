"""Whether this machine is a copy: the kernel says so when it is given a new generation id.

A virtual machine that is cloned, or set back to a snapshot, goes on with the memory of then: with a
lease that was granted to another life. Its boot-time clock may not have noticed. The generation id
of ACPI changes, and newer versions of Linux tell it as an event of the `vmgenid` driver.

Elsewhere there is no such word: there clocks that jump void a lease (host.py), and a certificate
shows clones. Source: halt/README.md, Gates.
"""

import asyncio
import errno
import socket
from collections.abc import Callable

from firedoor.runtime.logs import log

# <linux/netlink.h>; Python's socket module has no name for it.
NETLINK_KOBJECT_UEVENT = 15
KERNEL_GROUP = 1
# Whoever is root here could send one too; only the kernel's own count.
KERNEL_PID = 0

EVENT_BYTES_MAX = 8192
_MARK = b"NEW_VMGENID=1"


class GenerationWatch:
    """Calls `on_copy` when the kernel says that this machine was copied, while `keep` runs.

    `on_lost`: more came than the kernel kept, and that may have been among it.
    """

    def __init__(self, on_copy: Callable[[], None], on_lost: Callable[[], None]) -> None:
        self._on_copy = on_copy
        self._on_lost = on_lost

    async def keep(self) -> None:
        """Listen until cancelled; ends at once where there is nothing to hear."""
        events, loop = _listen(), asyncio.get_running_loop()
        if events is None:
            return
        try:
            loop.add_reader(events, self._read, events)
            await loop.create_future()
        finally:
            loop.remove_reader(events)
            events.close()

    def _read(self, events: socket.socket) -> None:
        try:
            while True:
                data, (pid, _) = events.recvfrom(EVENT_BYTES_MAX)
                if is_new_generation(data, pid):
                    log("machine-copied", level="warning", why="a new VM generation id")
                    self._on_copy()
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                self._on_lost()


def is_new_generation(event: bytes, sender: int) -> bool:
    """Whether a kernel event says that this machine has a new generation id."""
    return sender == KERNEL_PID and _MARK in event.split(b"\0")


def _listen() -> socket.socket | None:
    """A socket for the kernel's events; None where there are none or this program may not hear."""
    if not hasattr(socket, "AF_NETLINK"):
        return None
    try:
        events = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT)
    except OSError:
        return None
    try:
        events.setblocking(False)  # noqa: FBT003  # the standard library's own
        events.bind((0, KERNEL_GROUP))
    except OSError:
        events.close()
        return None
    return events
