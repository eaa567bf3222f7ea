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
from firedoor.runtime.key_files import read_key_file
from firedoor.runtime.settings import split_address
from firedoor.runtime.tls import Credentials, client_context, credentials_of, role_name
from tests.bench.nginx import children_of, find_nginx, nginx_serving
from tests.live.lab import MIB, LabSite, tell

NGINX_PORT = 8443

# Long enough for the connection to have reached the pace of the line.
UNDER_WAY_BYTES = MIB
STEP_S = 60.0


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

    def after(self, moment: float) -> tuple[int, float]:
        """Bytes that arrived after `moment`, and for how many milliseconds they did."""
        late = [(at - moment, count) for at, count in self.arrivals if at > moment]
        return sum(count for _, count in late), max((at for at, _ in late), default=0.0) * 1000


def measure(folder: Path, *, rate: str, times: int, mib: int) -> dict[str, Any]:
    """Medians and worst of `times` halts over a line of `rate`, such as `10mbit`."""
    firedoor: list[tuple[int, float]] = []
    nginx: list[tuple[int, float]] = []

    async def story(site: LabSite) -> None:
        await site.begin(rate=rate)
        # It follows another product: it keeps the conversation that serving asks for, no more.
        (name,) = await site.enrol(1, ["manuals"])
        await site.start(name)
        key = read_key_file(site.programs[name].folder / "state" / "identity.key", str)
        credentials = credentials_of(key)
        mirror = site.programs["mirror"]
        for number in range(1, times + 1):
            await site.publish("kiosk", f"{number}", mib * MIB)
            described = await site.firedoor(
                "show", f"kiosk=={number}", "--fleet", str(site.fleet), "--json"
            )
            table = json.loads(described)

            async def is_whole(wanted: str = table["manifest"]) -> bool:
                status = await site.status("mirror") or {"releases": []}
                return any(
                    each["manifest"] == wanted and each["pieces_have"] == each["pieces_total"]
                    for each in status["releases"]
                )

            await site.until("the mirror has it", is_whole, STEP_S)
            path = f"/v1/releases/{table['manifest']}/payload"
            span = f"bytes=0-{table['payload_bytes'] - 1}"
            reader = Reader(mirror.address, path, credentials, span)
            reader.start()
            reader.until_under_way()
            await site.halt(f"kiosk=={number}", at="mirror")
            reader.join(STEP_S)
            status = (await site.statuses(["mirror"]))["mirror"]
            order = next(
                each for each in status["orders"] if each.get("scope") == f"kiosk=={number}"
            )
            firedoor.append(reader.after(order["closed_at"]))
        if find_nginx() is None:
            return
        host, _ = split_address(mirror.address)
        address = f"{host}:{NGINX_PORT}"
        payload = site.folder / "trees" / "kiosk-1" / "content.bin"
        server_key = credentials_of(read_key_file(mirror.folder / "state" / "identity.key", str))
        for number in range(times):
            home = site.folder / f"nginx-{number}"
            with nginx_serving(payload, home, server_key, address, mirror.prefix) as server:
                reader = Reader(address, "/load", credentials)
                reader.start()
                reader.until_under_way()
                workers = children_of(server.pid)
                moment = Clock().now()
                for each in [server.pid, *workers]:
                    os.kill(each, signal.SIGKILL)
                reader.join(STEP_S)
                nginx.append(reader.after(moment))

    tell(folder, story)
    table = {"rate": rate, "halts": times, "firedoor": _summary(firedoor)}
    return table | ({"nginx_killed": _summary(nginx)} if nginx else {})


def _summary(rows: list[tuple[int, float]]) -> dict[str, float]:
    return {
        "leaked_bytes_median": median(count for count, _ in rows),
        "leaked_bytes_max": max(count for count, _ in rows),
        "last_byte_ms_median": round(median(ms for _, ms in rows), 1),
        "last_byte_ms_max": round(max(ms for _, ms in rows), 1),
    }
