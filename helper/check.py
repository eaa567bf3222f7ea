"""Verb `check`: a check of the release that is current, as a user of its own, in a unit of its own.

systemd ends all that is in the unit once the check has ended, whatever its exit code, and once its
time is over. The asker's end ends it too.
"""

import fcntl
import os
import re
import select
import selectors
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from helper.configuration import CONFIGURATION, Configuration, Product, Refusal

SAID_BYTES = 300

# What the check must not see: the agent's state, the sockets of Firedoor, and those by which others
# would run something for it outside of its unit.
_HIDDEN = (
    "-/var/lib/firedoor-agent",
    "-/var/lib/firedoor-mirror",
    "-/etc/firedoor",
    "-/run/firedoor",
    "-/run/dbus",
    "-/run/user",
)

_PROPERTIES = (
    "KillMode=control-group",
    "KillSignal=SIGKILL",
    "TimeoutStopSec=5",
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "ProtectProc=invisible",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectControlGroups=yes",
    "PrivateTmp=yes",
    # Shared memory outlives its processes.
    "PrivateIPC=yes",
    "RemoveIPC=yes",
    "PrivateDevices=yes",
    "RestrictNamespaces=yes",
    "RestrictSUIDSGID=yes",
    "RestrictRealtime=yes",
    "LockPersonality=yes",
    "TasksMax=512",
    "LimitNPROC=512",
    "UMask=0022",
)

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,199}")

# systemd ends the unit at its time; what it says of it comes a little later.
_MARGIN_S = 10.0
_LOOK_S = 0.1

_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def check(
    configuration: Configuration, product: Product, argv: tuple[str, ...], asker: socket.socket
) -> dict[str, object]:
    """Run it; `code` and `said`, the end of its output.

    Raises:
        Refusal: nothing of the product is current, or systemd does not run it.
    """
    _wait_for_turn(asker)
    folder = current_folder(product.root)
    unit = f"firedoor-check-{os.getpid()}-{time.monotonic_ns()}.service"
    words = [*_words(configuration, product, folder, unit), *argv]
    began = time.monotonic()
    with subprocess.Popen(  # noqa: S603  # the signed check, as check_user, without a shell
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_ENVIRONMENT,
    ) as process:
        said, is_wanted = _hear(process, asker, began + product.check_s + _MARGIN_S)
        if process.poll() is None:
            _end(unit)
        try:
            code = process.wait(_MARGIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    if not is_wanted:
        raise Refusal("the asker has gone")
    if time.monotonic() - began >= product.check_s:
        raise Refusal(f"did not end within {product.check_s:g} s")
    return {"code": code, "said": said.decode(errors="replace")}


def _wait_for_turn(asker: socket.socket) -> None:
    """One check at a time, for all run as one user and could end each other.

    The turn is over when this process is.

    Raises:
        Refusal: the asker has gone meanwhile.
    """
    descriptor = os.open(CONFIGURATION, os.O_RDONLY | os.O_CLOEXEC)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Whoever asks says nothing more, so what can be read is its end.
            if select.select([asker], [], [], _LOOK_S)[0]:
                raise Refusal("the asker has gone") from None
        else:
            return


def current_folder(root: Path) -> Path:
    """The folder of the release that the switch names.

    Raises:
        Refusal: there is none, or it is no folder right below `versions`.
    """
    try:
        target = (root / "current").readlink().as_posix()
    except OSError as error:
        raise Refusal(f"{root}/current: {error.strerror}") from error
    parent, _, name = target.rpartition("/")
    if parent != "versions" or not _VERSION.fullmatch(name):
        raise Refusal(f"{root}/current: wanted a link to versions/NAME")
    for path in (root, root / "versions", root / "versions" / name):
        try:
            found = path.lstat()
        except OSError as error:
            raise Refusal(f"{path}: {error.strerror}") from error
        if not stat.S_ISDIR(found.st_mode):
            raise Refusal(f"{path}: wanted a folder")
    return root / "versions" / name


def _words(
    configuration: Configuration, product: Product, folder: Path, unit: str
) -> Iterator[str]:
    yield from ("/usr/bin/systemd-run", "--quiet", "--collect", "--wait", "--pipe")
    yield f"--unit={unit}"
    properties = (
        *_PROPERTIES,
        f"User={configuration.check_user}",
        f"WorkingDirectory={_literal(str(folder))}",
        f"RuntimeMaxSec={product.check_s:g}",
        f"InaccessiblePaths={' '.join(_HIDDEN)}",
    )
    for each in properties:
        yield from ("-p", each)
    yield f"--setenv=FIREDOOR_VERSION_FOLDER={folder}"
    # A shell finds the program from the check's own folder, which systemd-run cannot.
    yield from ("--", "/bin/sh", "-c", 'exec "$$0" "$$@"')


def _literal(text: str) -> str:
    """For a property, where systemd reads % as the start of something else."""
    return text.replace("%", "%%")


def literal_words(argv: tuple[str, ...]) -> tuple[str, ...]:
    """For a command line, where systemd puts variables in."""
    return tuple(word.replace("$", "$$") for word in argv)


def _hear(
    process: "subprocess.Popen[bytes]", asker: socket.socket, deadline: float
) -> tuple[bytes, bool]:
    """The end of its output; whether somebody still wants to know."""
    said = b""
    asker.setblocking(False)  # noqa: FBT003  # the standard library's signature
    with selectors.DefaultSelector() as selector:
        assert process.stdout is not None
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(asker, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            for key, _ in selector.select(_LOOK_S):
                if key.fileobj is asker:
                    return said, False
                part = os.read(key.fd, 1 << 16)
                if not part:
                    return said, True
                said = (said + part)[-SAID_BYTES:]
    return said, True


def _end(unit: str) -> None:
    for words in (("kill", "--kill-whom=all", "--signal=SIGKILL"), ("stop",)):
        subprocess.run(  # noqa: S603  # our own unit
            ["/usr/bin/systemctl", *words, "--", unit],
            check=False,
            capture_output=True,
            env=_ENVIRONMENT,
            timeout=30,
        )
