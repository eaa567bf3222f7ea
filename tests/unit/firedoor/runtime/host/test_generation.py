"""What the kernel says of a machine that was copied, and who else cannot say it."""

import asyncio
import errno
import os
import socket
from pathlib import Path

import pytest

from firedoor.runtime.host import generation
from firedoor.runtime.host.generation import (
    KERNEL_GROUP,
    NETLINK_KOBJECT_UEVENT,
    GenerationWatch,
    is_new_generation,
)
from tests.unit.endpoint import Endpoint
from tests.unit.origin_bench import Bench

COPIED = b"change@/devices/vmgenid\0ACTION=change\0SUBSYSTEM=platform\0NEW_VMGENID=1\0SEQNUM=9\0"
LOOPBACK = Path("/sys/class/net/lo/uevent")

needs_root = pytest.mark.skipif(
    not hasattr(socket, "AF_NETLINK") or os.geteuid() != 0 or not os.access(LOOPBACK, os.W_OK),
    reason="takes root and a sysfs that can be written, to have the kernel send an event",
)


def test_the_kernels_word_of_a_new_generation_is_believed() -> None:
    assert is_new_generation(COPIED, 0)


def test_nobody_elses_word_is() -> None:
    assert not is_new_generation(COPIED, 4711)


@pytest.mark.parametrize(
    "event",
    [
        b"",
        b"change@/devices/vmgenid\0ACTION=change\0",
        COPIED.replace(b"NEW_VMGENID", b"SYNTH_ARG_NEW_VMGENID"),
        COPIED.replace(b"VMGENID=1", b"VMGENID=11"),
    ],
)
def test_another_event_is_nothing(event: bytes) -> None:
    assert not is_new_generation(event, 0)


@needs_root
def test_an_event_of_the_running_kernel_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    # No machine is copied for a test: any event of the kernel's own takes the same way.
    monkeypatch.setattr(generation, "_MARK", b"INTERFACE=lo")

    async def story() -> None:
        heard = asyncio.Event()
        watching = asyncio.ensure_future(GenerationWatch(heard.set, heard.set).keep())
        await asyncio.sleep(0)
        LOOPBACK.write_text("change", "ascii")
        async with asyncio.timeout(10):
            await heard.wait()
        watching.cancel()
        await asyncio.wait({watching})

    asyncio.run(story())


@needs_root
def test_an_event_that_root_here_has_sent_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "_MARK", b"INTERFACE=lo")

    async def story() -> None:
        told: list[int] = []
        heard = asyncio.Event()

        def note() -> None:
            told.append(1)
            heard.set()

        watching = asyncio.ensure_future(GenerationWatch(note, note).keep())
        await asyncio.sleep(0)
        kind = (socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT)
        with socket.socket(*kind) as forger:
            forger.bind((0, 0))
            forger.sendto(b"change@/x\0INTERFACE=lo\0", (0, KERNEL_GROUP))
        LOOPBACK.write_text("change", "ascii")
        async with asyncio.timeout(10):
            await heard.wait()
        assert told == [1]
        watching.cancel()
        await asyncio.wait({watching})

    asyncio.run(story())


def test_events_that_were_lost_may_have_been_the_word() -> None:
    told: list[int] = []

    class Full:
        def recvfrom(self, _: int) -> None:
            raise OSError(errno.ENOBUFS, "no buffer space")

    watch = GenerationWatch(lambda: told.append(0), on_lost=lambda: told.append(1))
    watch._read(Full())  # type: ignore[arg-type]  # a socket's one method
    assert told == [1]


def test_a_program_that_may_not_hear_the_kernel_goes_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generation, "NETLINK_KOBJECT_UEVENT", 9999)
    assert generation._listen() is None


def test_a_machine_that_was_copied_has_no_lease(bench: Bench, tmp_path: Path) -> None:
    async def story(one: Endpoint) -> None:
        lease = one.host.node.lease
        assert lease.age(one.host.clock.now()) is not None
        one.host.node.was_copied()
        assert lease.age(one.host.clock.now()) is None
        assert "generation id" in lease.why

    Endpoint(bench, tmp_path / "endpoint").run(story)
