"""A release's check owns nothing, with the units as they are deployed, under a real systemd."""

import json
from collections.abc import Iterator

import pytest

from tests.systemd.machine import ROOT, Machine, booted

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.systemd]

ORIGIN, ENROL = "127.0.0.1:7543", "127.0.0.1:7544"

MIRROR_TOML = f"""
fleet_root = "/srv/fleet/root.json"
state = "/var/lib/origin"
site = "headquarters"
listen = "{ORIGIN}"
enrol_listen = "{ENROL}"
origin_folder = "/srv/fleet/origin"
"""

AGENT_TOML = f"""
fleet_root = "/etc/firedoor/root.json"
state = "/var/lib/firedoor-agent"
site = "branch"
listen = "127.0.0.1:7443"
mirrors = ["{ORIGIN}"]

[products.kiosk]
root = "/srv/firedoor/kiosk"
settle_s = 0.5
"""

HELPER_TOML = """
agent_user = "firedoor"
check_user = "firedoor-check"

[products.kiosk]
root = "/srv/firedoor/kiosk"
check_s = 10.0
"""

TRUE = '{"verb": "check", "product": "kiosk", "argv": ["true"]}'


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A kiosk that is set up as deploy/README.md says, and an origin beside it."""
    with booted(tmp_path_factory.mktemp("machine")) as made:
        _set_up(made)
        yield made


def _set_up(made: Machine) -> None:
    for user in ("firedoor", "firedoor-check"):
        words = ("--system", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin")
        made.run("useradd", *words, user)
    for name in ("firedoor-agent.service", "firedoor-helper.socket", "firedoor-helper@.service"):
        text = (ROOT / "deploy" / "systemd" / name).read_text("utf-8")
        made.write(f"/etc/systemd/system/{name}", text)
    made.run("firedoor", "init", "/srv/fleet", "--no-passphrase", "--origin", ORIGIN)
    made.write("/etc/firedoor/mirror.toml", MIRROR_TOML)
    made.write("/etc/firedoor/agent.toml", AGENT_TOML)
    made.write("/etc/firedoor/helper.toml", HELPER_TOML)
    origin = ("/opt/firedoor/bin/firedoor-mirror", "--config", "/etc/firedoor/mirror.toml")
    made.run("systemd-run", "--quiet", "--unit=origin", *origin)
    own = ("install", "-d", "-o", "firedoor", "-g", "firedoor")
    made.run(*own, "-m", "0700", "/var/lib/firedoor-agent")
    made.run(*own, "/srv/firedoor")
    asked = ("--fleet", "/srv/fleet", "--role", "agent", "--site", "branch", "--enrol", ENROL)
    made.until("the origin listens", "grep -q :1D78 /proc/net/tcp")
    token = made.run("firedoor", "token", *asked).strip().splitlines()[-1]
    made.run("firedoor", "enrol", token, "--state", "/var/lib/firedoor-agent", user="firedoor")
    made.run("install", "-m", "0644", "/var/lib/firedoor-agent/root.json", "/etc/firedoor/")
    made.run("systemctl", "daemon-reload")
    made.run("systemctl", "start", "firedoor-agent")


def publish(machine: Machine, version: str, script: str) -> None:
    """A version of the kiosk, whose check is the shell script `script`."""
    machine.write(f"/srv/trees/{version}/version", version)
    machine.write(f"/srv/trees/{version}/attack.sh", script)
    words = ("--fleet", "/srv/fleet", "--check", "sh attack.sh")
    machine.run("firedoor", "publish", "kiosk", version, f"/srv/trees/{version}", *words)


def status(machine: Machine) -> str:
    """What the agent says of itself."""
    return machine.run(
        "firedoor-agent", "--config", "/etc/firedoor/agent.toml", "status", user="firedoor"
    )


def until_said(machine: Machine, words: str) -> None:
    """Wait until the agent's status has these words."""
    command = "runuser -u firedoor -- firedoor-agent --config /etc/firedoor/agent.toml status"
    machine.until(words, f"{command} | grep -qF '{words}'")


def test_without_its_helper_a_release_that_brings_a_check_is_held_back(machine: Machine) -> None:
    said = machine.run("firedoor-agent", "--config", "/etc/firedoor/agent.toml", "--check-config")
    assert "no check user" in said
    publish(machine, "1.0", "exit 0\n")
    until_said(machine, "1.0 is held back: no check user")
    assert "firedoor-check-" not in machine.journal()
    machine.run("systemctl", "start", "firedoor-helper.socket")
    said = machine.run("firedoor-agent", "--config", "/etc/firedoor/agent.toml", "--check-config")
    assert "no check user" not in said
    # It is looked for again at the next look at the plan.
    until_said(machine, "kiosk: 1.0 (idle)")
    assert "Started firedoor-check-" in machine.journal()


def test_a_check_is_another_user_and_sees_neither_state_nor_helper(machine: Machine) -> None:
    knock = "import socket; socket.socket(socket.AF_UNIX).connect('/run/firedoor/helper.sock')"
    lines = (
        "[ $(id -un) = firedoor-check ] || exit 11",
        "[ $(cat version) = 2.0 ] || exit 12",
        "[ $FIREDOOR_VERSION_FOLDER = $(realpath /srv/firedoor/kiosk/current) ] || exit 13",
        "cat /var/lib/firedoor-agent/identity.key && exit 14",
        "rm -f /var/lib/firedoor-agent/orders.log && exit 15",
        "cat /etc/firedoor/agent.toml && exit 16",
        f'python3 -c "{knock}" && exit 17',
        "touch attack.sh && exit 18",
        # Input, output, errors, and the folder that ls looks into.
        "[ $(ls /proc/self/fd | wc -l) = 4 ] || exit 19",
        "[ $(umask) = 0022 ] || exit 20",
        "exit 0",
    )
    publish(machine, "2.0", "\n".join(lines) + "\n")
    until_said(machine, "kiosk: 2.0 (idle)")
    assert machine.run("stat", "-c", "%s", "/var/lib/firedoor-agent/orders.log").strip() != "0"


@pytest.mark.parametrize("code", [0, 1])
def test_nothing_that_a_check_leaves_outlives_it(machine: Machine, code: int) -> None:
    version = f"3.{code}"
    left = f"setsid sh -c 'exec sleep 9{code}3' > /dev/null 2>&1 < /dev/null &"
    publish(machine, version, f"{left}\nexit {code}\n")
    if code:
        until_said(machine, f"{version} failed its check")
    else:
        until_said(machine, f"kiosk: {version} (idle)")
    machine.until("it is gone", f"! pgrep -f '[s]leep 9{code}3'", span_s=10)


def test_a_check_that_does_not_end_is_ended(machine: Machine) -> None:
    publish(machine, "4.0", "exec sleep 777\n")
    until_said(machine, "4.0 failed its check")
    machine.until("it is gone", "! pgrep -f '[s]leep 777'", span_s=10)


@pytest.mark.parametrize("user", ["nobody", "firedoor-check", "root"])
def test_the_helper_answers_the_agents_user_alone(machine: Machine, user: str) -> None:
    said = ask_helper(machine, user, TRUE)
    assert not said or "error" in json.loads(said)


@pytest.mark.parametrize(
    "line",
    [
        "junk",
        "[]",
        "[" * 7000,
        '{"verb": "check"}',
        '{"verb": "restart", "product": "kiosk", "argv": ["true"]}',
        '{"verb": "check", "product": "../x", "argv": ["true"]}',
        '{"verb": "check", "product": "ssh", "argv": ["true"]}',
        '{"verb": "check", "product": "kiosk", "argv": []}',
        '{"verb": "check", "product": "kiosk", "argv": ["a\\u0000b"]}',
        '{"verb": "check", "product": "kiosk", "argv": ["true"], "unit": "ssh.service"}',
        '{"verb": "check", "product": "kiosk", "argv": ["true"], "user": "root"}',
    ],
)
def test_the_helper_takes_a_product_and_the_words_of_a_check_and_nothing_else(
    machine: Machine, line: str
) -> None:
    said = ask_helper(machine, "firedoor", line)
    assert "error" in json.loads(said)


def test_the_words_of_a_check_are_no_options_of_anything(machine: Machine) -> None:
    words = '["--property=User=root", "true"]'
    said = ask_helper(
        machine, "firedoor", f'{{"verb": "check", "product": "kiosk", "argv": {words}}}'
    )
    assert '"code": 127' in said
    words = '["sh", "-c", "test \\"$0\\" = sh && test $((1+1)) = 2 && id -un"]'
    said = ask_helper(
        machine, "firedoor", f'{{"verb": "check", "product": "kiosk", "argv": {words}}}'
    )
    assert '"code": 0' in said
    assert "firedoor-check" in said


def test_a_configuration_that_others_can_write_is_refused(machine: Machine) -> None:
    machine.run("chmod", "0666", "/etc/firedoor/helper.toml")
    said = ask_helper(
        machine, "firedoor", '{"verb": "check", "product": "kiosk", "argv": ["true"]}'
    )
    machine.run("chmod", "0644", "/etc/firedoor/helper.toml")
    assert "nobody else can write" in said


def ask_helper(machine: Machine, user: str, line: str) -> str:
    """What the helper answers to one line of this user, or why it could not be asked."""
    program = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.settimeout(20)\n"
        "s.connect('/run/firedoor/helper.sock')\n"
        "s.sendall(sys.argv[1].encode() + b'\\n')\n"
        "print(s.makefile().read())\n"
    )
    return machine.run("python3", "-c", program, line, user=user, check=False)
