"""What attacks have in common: raw connections, an operator's requests, and a program's burdens."""

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from firedoor.identity import Role
from firedoor.runtime.clocks import Clock
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.keys.tls import credentials_of
from firedoor.runtime.network.pacing import Budget
from firedoor.runtime.network.peer_client import PeerClient
from firedoor.runtime.settings import split_address
from tests.live.lab import ENROL_PORT, NETWORK, PORT, LabSite

# Of the clock in /proc/PID/stat.
TICKS_PER_S = 100

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


# --- raw connections ---------------------------------------------------------------------------


def any_context() -> ssl.SSLContext:
    """For dialling the enrolment port: whoever answers will do."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def unnamed(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same client, but for which name the server has."""
    context.check_hostname = False
    return context


def request_head(path: str, *headers: str) -> bytes:
    """The head of a POST request, whole."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the other side ends it, in whichever way."""
    came = b""
    with suppress(ConnectionError, ssl.SSLError):
        while part := await reader.read(65536):
            came += part
    return came


async def answer_to(
    port: int, sent: bytes, context: ssl.SSLContext | None, *, span_s: float
) -> bytes | None:
    """All that a server says to these bytes before it hangs up; None: it has not after `span_s`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        async with asyncio.timeout(span_s):
            writer.write(sent)
            return await read_to_end(reader)
    except TimeoutError:
        return None
    finally:
        writer.transport.abort()


# --- an operator's requests --------------------------------------------------------------------


@asynccontextmanager
async def client_of(key: Path) -> AsyncIterator[PeerClient]:
    """The dialling side of a key file that is not sealed."""
    client = PeerClient(credentials_of(read_key_file(key, str)), Clock(), Budget(0))
    try:
        yield client
    finally:
        await client.close()


async def post(client: PeerClient, site: LabSite, path: str, body: bytes, piece: str = "") -> bytes:
    """The origin's answer; raises as `PeerClient.post`."""
    host, port = split_address(site.programs["origin"].address)
    headers = {"X-Piece": piece} if piece else None
    return await client.post(
        host, port, path, body, limit=64 << 20, role=Role.MIRROR, headers=headers
    )


# --- a program's burdens -----------------------------------------------------------------------


def pid_of(site: LabSite, name: str) -> int:
    """The process of a program; `ip netns exec` and `prlimit` become what they run."""
    process = site.programs[name].process
    assert process is not None
    return process.pid


def descriptors_of(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def cpu_s_of(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def peak_mb_of(pid: int) -> float:
    """The most memory that a process has had resident, since `forget_peak` if that was called."""
    return _memory_mb(pid, "VmHWM")


def resident_mb_of(pid: int) -> float:
    """The memory that a process has resident."""
    return _memory_mb(pid, "VmRSS")


def forget_peak(pid: int) -> None:
    """Let the peak begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", "utf-8")


def _memory_mb(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def free_bytes(folder: Path) -> int:
    """The room that is left on a folder's disk."""
    return shutil.disk_usage(folder).free


# --- programs ----------------------------------------------------------------------------------


async def begin_origin(site: LabSite, *command: str) -> None:
    """Start the origin under `command`, such as one that bounds its descriptors."""
    prefix, address = site._lab.host("origin")
    await site.init(f"{address}:{PORT}", f"{address}:{ENROL_PORT}", prefix=(*prefix, *command))
    await site.start("origin")


def operators_address() -> str:
    """Where the test itself lives in a lab."""
    return f"{NETWORK}.1"


@asynccontextmanager
async def running(*command: str, prefix: Sequence[str] = ()) -> AsyncIterator[asyncio.StreamReader]:
    """A process of the attacker while the block runs; what it writes."""
    process = await asyncio.create_subprocess_exec(
        *prefix, *command, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
