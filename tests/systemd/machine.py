"""A machine with a real systemd as its first process, in namespaces of its own, on a fresh Debian.

The tree is made once by debootstrap, from the package source that this machine uses, and kept under
$FIREDOOR_DEBIAN (default /var/cache/firedoor-debian); each machine gets a layer of its own over it.
It has no network but its own loopback.
"""

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("FIREDOOR_DEBIAN", "/var/cache/firedoor-debian"))
CGROUPS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))

# Whose own Python is the one that these packages were installed for.
SUITES = {"3.11": "bookworm", "3.13": "trixie"}
INCLUDED = "systemd,systemd-sysv,dbus,python3,procps"

PROGRAMS = {
    "firedoor": "firedoor.cli.main",
    "firedoor-agent": "agent.__main__",
    "firedoor-mirror": "mirror.__main__",
}
PROGRAM = """#!/opt/firedoor/bin/python3
import sys
from {module} import main
sys.exit(main())
"""

BOOT_S = 60.0
COMMAND_S = 120.0

# The first process of the machine: what a container's manager mounts, and then systemd.
BOOT = r"""
set -eu
root=$1
cd "$root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
    : > dev/$name
    mount --bind /dev/$name dev/$name
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
ip link set lo up 2>/dev/null || true
pivot_root . mnt
cd /
umount -l /mnt
PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec env -i container=firedoor PATH=$PATH /lib/systemd/systemd --show-status=0
"""


def require() -> str:
    """The suite to use; skips the test where no such machine can be made."""
    suite = SUITES.get(f"{sys.version_info.major}.{sys.version_info.minor}")
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a machine of its own needs Linux and root")
    if suite is None or platform.python_implementation() != "CPython":
        pytest.skip("no Debian has this Python as its own")
    if not (CACHE / f"systemd-{suite}").is_dir() and shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is missing")
    if cgroup() is None:
        pytest.skip("there is no cgroup2 to be found")
    return suite


def cgroup() -> Path | None:
    """Where this machine's cgroup2 is."""
    return next((each for each in CGROUPS if (each / "cgroup.controllers").exists()), None)


def tree(suite: str) -> Path:
    """The system tree of a suite, made if it is not there."""
    made = CACHE / f"systemd-{suite}"
    if made.is_dir():
        return made
    half = CACHE / f"systemd-{suite}.half"
    shutil.rmtree(half, ignore_errors=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    words = ["debootstrap", "--variant=minbase", f"--include={INCLUDED}", suite, str(half)]
    done = subprocess.run([*words, source()], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        # The address of the source is this machine's own business.
        last = re.sub(r"[a-z+]+://\S*", "(address)", done.stdout[-400:])
        pytest.fail(f"debootstrap failed: {last}")
    (half / "etc" / "apt" / "sources.list").unlink(missing_ok=True)
    half.rename(made)
    return made


def source() -> str:
    """The first package source that this machine has."""
    apt = Path("/etc/apt")
    for path in (apt / "sources.list", *sorted(apt.glob("sources.list.d/*"))):
        text = path.read_text("utf-8") if path.is_file() else ""
        if found := re.search(r"^(?:URIs:|deb )[^\n]*?(\w+://\S+)", text, re.MULTILINE):
            return found[1]
    pytest.skip("no package source was found under /etc/apt")


class Machine:
    """One that has booted. `root`: its disk, as it is seen from here."""

    def __init__(self, root: Path, pid: int) -> None:
        self.root = root
        self._pid = pid

    def run(self, *words: str, user: str = "", check: bool = True) -> str:
        """What a command says there, as root or another user."""
        enter = ["nsenter", "-t", str(self._pid), "-m", "-p", "-u", "-i", "-n", "-C", "-r", "-w"]
        become = ["runuser", "-u", user, "--"] if user else []
        clean = ["env", "-i", "PATH=/opt/firedoor/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp"]
        command = [*enter, *clean, "LANG=C.UTF-8", *become, *words]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=COMMAND_S
        )
        if check and done.returncode != 0:
            pytest.fail(
                f"{' '.join(words)}: exit code {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done.stdout

    def until(self, what: str, *words: str, span_s: float = 60.0) -> str:
        """What a command says once it ends well."""
        deadline = time.monotonic() + span_s
        while time.monotonic() < deadline:
            said = self.run("sh", "-c", f"{' '.join(words)} && echo '(it is so)'", check=False)
            if said.endswith("(it is so)\n"):
                return said
            time.sleep(0.2)
        pytest.fail(f"{what}: not within {span_s:.0f} s\n{self.journal()}")

    def journal(self) -> str:
        """The last that the machine has said."""
        return self.run("journalctl", "--no-pager", "-n", "400", check=False)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file of root's on its disk."""
        where = self.root / path.lstrip("/")
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text, "utf-8")
        where.chmod(mode)


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """A machine with this project in /opt/firedoor, up and running."""
    suite, disk = require(), folder / "disk"
    for each in ("disk", "upper", "work"):
        (folder / each).mkdir()
    layers = f"lowerdir={tree(suite)},upperdir={folder}/upper,workdir={folder}/work"
    _do("mount", "-t", "overlay", "overlay", "-o", layers, str(disk))
    mounted = [disk]
    try:
        _install(disk, mounted)
        where = cgroup()
        assert where is not None
        own = where / f"firedoor-{os.getpid()}"
        own.mkdir(exist_ok=True)
        process = _boot(disk, own)
        try:
            pid = _first_process(process)
            machine = Machine(disk, pid)
            machine.until("it has booted", "systemctl is-system-running --wait | grep -q running")
            yield machine
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            _remove_cgroup(own)
    finally:
        for path in reversed(mounted):
            _do("umount", "-l", str(path))


def _boot(disk: Path, own: Path) -> "subprocess.Popen[bytes]":
    spaces = ("--cgroup", "--pid", "--mount", "--uts", "--ipc", "--net")
    words = ["unshare", *spaces, "--fork", "--kill-child", "--propagation", "private"]
    enter = f"echo $$ > '{own}/cgroup.procs'; exec \"$@\""
    command = ["sh", "-c", enter, "sh", *words, "bash", "-c", BOOT, "boot", str(disk)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _first_process(process: "subprocess.Popen[bytes]") -> int:
    deadline = time.monotonic() + BOOT_S
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while time.monotonic() < deadline:
        children = path.read_text("ascii").split() if path.exists() else []
        for pid in map(int, children):
            with suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text("utf-8").strip() == "systemd":
                    return pid
        time.sleep(0.05)
    pytest.fail("systemd did not start")


def _install(disk: Path, mounted: list[Path]) -> None:
    """Show it this project, and the packages that were installed here, below /opt/firedoor."""
    home = disk / "opt" / "firedoor"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = home / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "bin" / "python3").symlink_to("/usr/bin/python3")
    for name, module in PROGRAMS.items():
        program = home / "bin" / name
        program.write_text(PROGRAM.format(module=module), "utf-8")
        program.chmod(0o755)
    _show(Path(sysconfig.get_path("purelib")), packages, mounted)
    # The packages are shown as they are here, so the programs come by the system's own folder.
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = true\n")
    for name in ("firedoor", "agent", "mirror", "helper"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, home / "program" / name, ignore=ignored)
    system = disk / "usr" / "lib" / "python3" / "dist-packages"
    system.mkdir(parents=True, exist_ok=True)
    (system / "firedoor.pth").write_text("/opt/firedoor/program\n", "utf-8")


def _show(path: Path, where: Path, mounted: list[Path]) -> None:
    _do("mount", "--bind", str(path), str(where))
    mounted.append(where)
    _do("mount", "-o", "remount,bind,ro", str(where))


def _remove_cgroup(own: Path) -> None:
    deadline = time.monotonic() + 10
    while own.exists() and time.monotonic() < deadline:
        for each in sorted(own.rglob("*/"), reverse=True):
            with suppress(OSError):
                each.rmdir()
        with suppress(OSError):
            own.rmdir()
        time.sleep(0.1)


def _do(*words: str) -> None:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(words)}: {done.stderr}")
