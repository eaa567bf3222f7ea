"""A check in a unit of the helper leaves no memory behind, under a real systemd."""

from collections.abc import Iterator

import pytest

from tests.systemd.machine import Machine, booted
from tests.systemd.test_checks import _set_up, publish, until_said

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.systemd]

SIZE = 8 << 20

ATTACK = f"""
head -c {SIZE} /dev/zero > /dev/shm/left
python3 -c '
import ctypes
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
at = libc.shmat(libc.shmget(0, {SIZE}, 0o1600), None, 0)
ctypes.memset(at, 1, {SIZE})
'
exit 0
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A kiosk that is set up as deploy/README.md says, helper and all."""
    with booted(tmp_path_factory.mktemp("machine")) as made:
        _set_up(made)
        made.run("systemctl", "start", "firedoor-helper.socket")
        yield made


def test_a_check_that_has_ended_holds_no_shared_memory(machine: Machine) -> None:
    publish(machine, "1.0", ATTACK)
    until_said(machine, "kiosk: 1.0 (idle)")
    segments = machine.run("cat", "/proc/sysvipc/shm").splitlines()[1:]
    files = machine.run("find", "/dev/shm", "-user", "firedoor-check")
    assert (segments, files) == ([], "")
