"""Where the measured processes meet: loopback, or a loopback of their own that loses packets.

The namespace has no name: it ends with the last process in it, whatever happens to the harness.
"""

import ctypes
import os
import shutil
import subprocess
from dataclasses import dataclass

_CLONE_NEWNET = 0x40000000

_RULES = """\
table ip firedoor_bench {{
  chain input {{
    type filter hook input priority 0;
    ip saddr {operator} accept
    ip daddr {operator} accept
    numgen random mod 100 < {loss} drop
  }}
}}
"""


_PARTITION = """\
table ip firedoor_cut {{
  chain input {{
    type filter hook input priority 0;
    ip saddr {operator} accept
    ip daddr {operator} accept
    tcp dport {port} drop
    tcp sport {port} drop
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where servers listen, and where the operator, whose packets are never lost, dials them."""

    listen: str
    operator: str
    loss: int = 0


LOOPBACK = Place("127.0.0.1", "127.0.0.1")


def enter_namespace(loss: int) -> Place:
    """Step into a network namespace of this process's own; nothing is lost before `begin_loss`.

    Raises:
        SystemExit: this machine does not let us.
    """
    nft = shutil.which("nft") or shutil.which("nft", path="/usr/sbin")
    if os.geteuid() != 0 or nft is None or shutil.which("ip") is None:
        raise SystemExit("--loss makes a network namespace: it wants root, ip and nft")
    # os.unshare() comes with Python 3.12.
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_CLONE_NEWNET) != 0:
        raise SystemExit(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # There is nothing but this loopback in it, so all addresses are the namespace's own.
    return Place("0.0.0.0", "127.0.0.2", loss)


def begin_loss(place: Place) -> None:
    """Drop this share of all packets but the operator's, from now until `end_loss`."""
    if place.loss:
        rules = _RULES.format(operator=place.operator, loss=place.loss)
        _nft(rules)


def end_loss(place: Place) -> None:
    """Lose nothing again."""
    if place.loss:
        # Declared first: deleting what is not there would be an error.
        _nft("table ip firedoor_bench\ndelete table ip firedoor_bench\n")


def begin_partition(place: Place, port: int) -> None:
    """Drop all packets but the operator's to and from the server at `port`."""
    _nft(_PARTITION.format(operator=place.operator, port=port))


def end_partition() -> None:
    """Let everything through again."""
    _nft("table ip firedoor_cut\ndelete table ip firedoor_cut\n")


def _nft(rules: str) -> None:
    subprocess.run([nft_path(), "-f", "-"], input=rules, text=True, check=True)


def nft_path() -> str:
    """Where nft is; a user's PATH need not have it."""
    return shutil.which("nft") or "/usr/sbin/nft"
