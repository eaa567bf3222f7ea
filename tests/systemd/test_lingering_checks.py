"""A check in a unit of the helper leaves no process by another's hand: not by the login manager.

Where polkit is there, as on each machine with a desktop, any user may ask logind to keep a manager
of its own running, which takes orders from whoever is that user, and is in no unit of the helper.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd.machine import Machine, booted
from tests.systemd.test_checks import _set_up, publish, until_said

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.systemd]

# What a machine with a desktop has beside what this one has.
PACKAGES = (
    *("polkitd", "libpolkit-gobject-1-0", "libpolkit-agent-1-0", "libduktape207"),
    *("libglib2.0-0", "libexpat1", "libpam-systemd"),
)

ATTACK = """
busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager \
    SetUserLinger ubb $(id -u) true false
for each in $(seq 50); do
    # /run/user is hidden from the check, and not from its own user's manager.
    export XDG_RUNTIME_DIR=/proc/$(pgrep -u $(id -u) -x systemd)/root/run/user/$(id -u)
    systemd-run --user sleep 7321 && break
    sleep 0.1
done
exit 0
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A kiosk that is set up as deploy/README.md says, helper and all, with polkit."""
    folder = tmp_path_factory.mktemp("machine")
    packages = folder / "packages"
    packages.mkdir()
    words = ["apt-get", "download", *PACKAGES]
    done = subprocess.run(words, check=False, capture_output=True, cwd=packages)
    if done.returncode != 0:
        pytest.skip("this machine's package source has no polkit")
    with booted(folder) as made:
        _add(made, packages)
        _set_up(made)
        made.run("systemctl", "start", "firedoor-helper.socket")
        yield made


def _add(made: Machine, packages: Path) -> None:
    for path in packages.iterdir():
        shutil.copy(path, made.root)
    made.run("sh", "-c", "dpkg --force-all -i /*.deb; systemctl daemon-reload", check=False)
    made.run("systemctl", "reload", "dbus")
    made.run("systemctl", "start", "polkit")


def test_a_check_leaves_no_process_with_a_manager_of_its_user(machine: Machine) -> None:
    publish(machine, "1.0", ATTACK)
    until_said(machine, "kiosk: 1.0 (idle)")
    machine.until("it is gone", "! pgrep -f '[s]leep 7321'", span_s=10)
