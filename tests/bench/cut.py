"""What still reaches a receiver after a halt has closed the sender's brake.

The receiver reads with an endpoint's certificate over mTLS and heeds no order, so that it measures
the sender's cut alone. Beside it: nginx, killed with SIGKILL in mid-transfer, which is the fastest
stop that a plain mirror has.
"""

import json
import os
import signal
import socket
import ssl
import threading
from pathlib import Path
from statistics import median
from typing import Any

from firedoor.identity import Role
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import Credentials, client_context, credentials_of, role_name
from firedoor.runtime.settings import split_address
from tests.bench.nginx import children_of, find_nginx, nginx_serving
from tests.live.lab import MIB, LabSite, Table, tell

NGINX_PORT = 8443

# Long enough for the connection to have reached the pace of the line.
UNDER_WAY_BYTES = MIB
STEP_S = 60.0

# Bytes, and for how many milliseconds they came.
Leak = tuple[int, float]


class Reader(threading.Thread):
    """Reads one response until it ends, however it ends; notes when how much had arrived."""

    def __init__(self, address: str, path: str, credentials: Credentials, span: str = "") -> None:
        super().__init__(daemon=True)
        self.arrivals: list[tuple[float, int]] = []
        self.total = 0
        self.under_way = threading.Event()
        lines = [f"GET {path} HTTP/1.1", "Host: bench", *([f"Range: {span}"] if span else [])]
        # Connected here: the thread itself would be in the namespace that it was started in.
        raw = socket.create_connection(split_address(address), timeout=STEP_S)
        context = client_context(credentials)
        self._line: ssl.SSLSocket = context.wrap_socket(raw, server_hostname=role_name(Role.MIRROR))
        self._line.sendall("\r\n".join([*lines, "", ""]).encode())
        self.start()

    def run(self) -> None:
        """Read to the end."""
        clock = Clock()
        try:
            while part := self._line.recv(1 << 16):
                self.total += len(part)
                self.arrivals.append((clock.now(), len(part)))
                if self.total >= UNDER_WAY_BYTES:
                    self.under_way.set()
        except OSError:
            pass
        finally:
            self._line.close()

    def until_under_way(self) -> None:
        """Wait until the transfer is well under way."""
        if not self.under_way.wait(STEP_S):
            raise SystemExit(f"the transfer stopped after {self.total} bytes")

    def after(self, moment: float, whole: int) -> Leak:
        """What arrived after `moment`, of a body of `whole` bytes that should not get through."""
        self.join(STEP_S)
        if self.is_alive() or self.total >= whole:
            raise SystemExit(f"not cut: {self.total} of {whole} bytes arrived; try a larger --mib")
        late = [(at - moment, count) for at, count in self.arrivals if at > moment]
        return sum(count for _, count in late), max((at for at, _ in late), default=0.0) * 1000


def measure(folder: Path, *, rate: str, times: int, mib: int) -> dict[str, Any]:
    """Medians and worst of `times` halts over a line of `rate`, such as `10mbit`."""
    table: dict[str, Any] = {"rate": rate, "halts": times}

    async def story(site: LabSite) -> None:
        await site.begin(rate=rate)
        # It follows another product: it keeps the conversation that serving asks for, no more.
        (name,) = await site.enrol(1, ["manuals"])
        await site.start(name)
        reader = _credentials(site, name)
        halted = [await _halt(site, reader, f"{number}", mib) for number in range(times)]
        table["firedoor"] = _summary(halted)
        if find_nginx() is not None:
            killed = [_kill(site, reader, f"{number}") for number in range(times)]
            table["nginx_killed"] = _summary(killed)

    tell(folder, story)
    return table


async def _halt(site: LabSite, reads_as: Credentials, version: str, mib: int) -> Leak:
    """Publish a release, read it from the mirror, and halt it there in mid-transfer."""
    release = f"kiosk=={version}"
    await site.publish("kiosk", version, mib * MIB)
    table = json.loads(await site.firedoor("show", release, "--fleet", str(site.fleet), "--json"))
    manifest, size = table["manifest"], table["payload_bytes"]

    def is_whole(status: Table) -> bool:
        held = [each for each in status["releases"] if each["manifest"] == manifest]
        return any(each["pieces_have"] == each["pieces_total"] for each in held)

    await site.until_all(f"the mirror has {release}", ["mirror"], is_whole)
    path, span = f"/v1/releases/{manifest}/payload", f"bytes=0-{size - 1}"
    reader = Reader(site.programs["mirror"].address, path, reads_as, span)
    reader.until_under_way()
    await site.halt(release, at="mirror")
    status = (await site.statuses(["mirror"]))["mirror"]
    (order,) = (each for each in status["orders"] if each.get("scope") == release)
    return reader.after(order["closed_at"], size)


def _kill(site: LabSite, reads_as: Credentials, version: str) -> Leak:
    """The same bytes from nginx on the mirror's machine, killed in mid-transfer."""
    mirror = site.programs["mirror"]
    address = f"{split_address(mirror.address)[0]}:{NGINX_PORT}"
    payload = site.folder / "trees" / f"kiosk-{version}" / "content.bin"
    home, own = site.folder / f"nginx-{version}", _credentials(site, "mirror")
    with nginx_serving(payload, home, own, address, mirror.prefix) as server:
        reader = Reader(address, "/load", reads_as)
        reader.until_under_way()
        pids = [server.pid, *children_of(server.pid)]
        moment = Clock().now()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return reader.after(moment, payload.stat().st_size)


def _credentials(site: LabSite, name: str) -> Credentials:
    return credentials_of(read_key_file(site.programs[name].folder / "state" / "identity.key", str))


def _summary(rows: list[Leak]) -> dict[str, float]:
    return {
        "leaked_bytes_median": median(count for count, _ in rows),
        "leaked_bytes_max": max(count for count, _ in rows),
        "last_byte_ms_median": round(median(ms for _, ms in rows), 1),
        "last_byte_ms_max": round(max(ms for _, ms in rows), 1),
    }
