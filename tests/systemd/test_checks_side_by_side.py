"""The check of one product has no hand in that of another, though both run as one user.

The helper is asked for both at once: an agent follows its products side by side, and whoever signs
one of them publishes in the moment in which another does.
"""

import json
import threading
from collections.abc import Iterator

import pytest

from tests.systemd.machine import Machine, booted
from tests.systemd.test_checks import HELPER_TOML, _set_up, ask_helper, publish, until_said

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.systemd]

# The honest publisher's product.
MANUALS = """
[products.manuals]
root = "/srv/firedoor/kiosk"
check_s = 10.0
"""

HOSTILE = "i=0; while [ $i -lt 60 ]; do kill -9 -1; sleep 0.05; i=$((i+1)); done"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A kiosk that is set up as deploy/README.md says, and whose helper knows two products."""
    with booted(tmp_path_factory.mktemp("machine")) as made:
        _set_up(made)
        made.write("/etc/firedoor/helper.toml", HELPER_TOML + MANUALS)
        made.run("systemctl", "start", "firedoor-helper.socket")
        yield made


def asked(product: str, *argv: str) -> str:
    """The line by which an agent asks for a check."""
    return json.dumps({"verb": "check", "product": product, "argv": argv})


def test_a_check_ends_no_check_of_another_product(machine: Machine) -> None:
    publish(machine, "1.0", "exit 0\n")
    until_said(machine, "kiosk: 1.0 (idle)")
    words = (machine, "firedoor", asked("kiosk", "sh", "-c", HOSTILE))
    hostile = threading.Thread(target=ask_helper, args=words)
    hostile.start()
    machine.until("the thief's check runs", "pgrep -u firedoor-check sh")
    honest = ask_helper(machine, "firedoor", asked("manuals", "sleep", "1"))
    hostile.join()
    assert json.loads(honest)["code"] == 0
