"""The durable memory of the brake: an append-only file of orders, beacons and resumes that acted.

* A record is on disk (fdatasync) before `append` returns.
* A torn end is a crash in mid-write: it was acknowledged to nobody and is cut off, and said.
* Behind the last record lie zeros: room that is held for orders, so that a full disk takes them.
* Damage before the end is another thing. A node that syncs with others keeps what is whole, puts
  the damaged file aside and starts: it moves nothing before it has caught up, and the union brings
  back what is lost. The origin has nobody to catch up with: there a person must look.

Frame: u32 length, u32 CRC-32 of the body, u32 CRC-32 of these eight bytes; kind byte and record.
"""

import os
import struct
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from firedoor.errors import Malformed, Unavailable
from firedoor.node.order_book import Kept
from firedoor.runtime.files import durable_write
from firedoor.runtime.folders import read_regular
from firedoor.runtime.logs import log
from firedoor.units import MIB

_SIZES = struct.Struct(">II")
_HEAD = struct.Struct(">III")
ORDER = b"o"
BEACON = b"b"
ACTED = b"a"
FORGOTTEN = b"f"
# Ids for which a witness has signed, one after another.
VOUCHED = b"v"
# What a halt reaches here, as halt/reach.py encodes it; version 0.1 passes it over.
DECIDED = b"d"
# A release that a halt names, as halt/reach.py encodes it; older versions pass it over.
KNOWN = b"k"
_ID_BYTES = 32

Entry = tuple[bytes, bytes]
"""The kind of a record, and the record."""

# Room that is held for orders: 256 of the largest, a fleet's worst day.
RESERVE_BYTES = MIB

# After a write and its sync that took longer, the next is left to a thread. Flash takes 0.2 to 2 ms
# and a turning disk 10; both take some 100 where a hundred processes of one machine sync at once,
# and a thread makes that no shorter. No beat is missed for so long.
QUICK_S = 0.25

# ORDERS_MAX orders of 4 KiB are 16 MiB; each may have brought a beacon of up to 160 KiB, which the
# next start leaves out.
LOG_BYTES_MAX = 1024 * MIB

# Beacons in a log before a start leaves the old ones out: a year of orders has some.
BEACONS_MAX = 64


class OrderLog:
    """One log file; blocking. `is_quick`: the last write took less than QUICK_S.

    `may_heal`: damage costs no start, as said above.

    Raises:
        Malformed: the file is damaged and may not heal.
        Unavailable: it cannot be opened.
    """

    def __init__(self, path: Path, *, may_heal: bool = True) -> None:
        self.path = path
        self.is_quick = True
        self._has_remains = False
        self.orders: list[bytes] = []
        self.acted: list[bytes] = []
        self.beacon = b""
        self.forgotten: frozenset[bytes] = frozenset()
        self.vouched: set[bytes] = set()
        self.decided: list[bytes] = []
        self.known: list[bytes] = []
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._load(may_heal=may_heal)
            self._file = os.open(path, flags, 0o600)
            if self._has_remains:
                self._clear_to(os.fstat(self._file).st_size)
            self._reserve()
            os.fsync(self._file)
        except OSError as error:
            raise Unavailable(str(path), why=error.strerror or str(error)) from error

    def kept(self) -> Kept:
        """What lay in the file when it was opened."""
        return Kept(
            tuple(self.orders),
            self.beacon,
            tuple(self.acted),
            self.forgotten,
            self.vouched,
            tuple(self.decided),
            tuple(self.known),
        )

    def append_all(self, entries: Iterable[Entry]) -> None:
        """Make records durable, in one write.

        Raises:
            Unavailable: the disk is full or fails; nothing half-written will be believed.
        """
        frame = b"".join(_frame(kind + record) for kind, record in entries)
        began = time.monotonic()
        try:
            os.lseek(self._file, self._end, os.SEEK_SET)
            view = memoryview(frame)
            while view:
                view = view[os.write(self._file, view) :]
            getattr(os, "fdatasync", os.fsync)(self._file)
        except OSError as error:
            # Or its remains would follow a shorter record, and the file would count as damaged.
            try:
                self._clear_to(self._end + len(frame))
            except OSError:
                # The room that is held goes with them, until there is some again.
                with suppress(OSError):
                    os.ftruncate(self._file, self._end)
            raise Unavailable(f"recording an order in {self.path}", why=str(error)) from error
        self._end += len(frame)
        if self._reserved - self._end < RESERVE_BYTES // 2:
            self._reserve()
        self.is_quick = time.monotonic() - began < QUICK_S

    def _clear_to(self, stop: int) -> None:
        """Make what is beyond the last record zeros; room that is held is not let go of."""
        size = min(stop, os.fstat(self._file).st_size)
        os.lseek(self._file, self._end, os.SEEK_SET)
        left = size - self._end
        while left > 0:
            left -= os.write(self._file, bytes(min(left, MIB)))

    def _reserve(self) -> None:
        """Hold room for the orders to come, which nothing else on this disk can take.

        On a disk that is full the room that is held stays; a copy-on-write file system may promise
        less.
        """
        wanted = self._end + RESERVE_BYTES
        self._reserved = max(self._end, os.fstat(self._file).st_size)
        if self._reserved >= wanted:
            return
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file, self._reserved, wanted - self._reserved)
            else:
                os.lseek(self._file, self._reserved, os.SEEK_SET)
                os.write(self._file, bytes(wanted - self._reserved))
            self._reserved = wanted
        except OSError as error:
            log("no-reserve", level="error", file=self.path, why=str(error), do="free disk space")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _load(self, *, may_heal: bool) -> None:
        try:
            data = read_regular(self.path, LOG_BYTES_MAX)
        except FileNotFoundError:
            data = b""
        bodies, self._end, is_damaged = read_frames(data)
        if is_damaged and not may_heal:
            got = f"damage at byte {self._end}; put back a copy, or move it away: the mirrors hold"
            got += " its orders and hand them up when they connect"
            raise Malformed(str(self.path), wanted="whole records", got=got)
        if is_damaged:
            self._put_aside(data, bodies)
        elif sum(body[:1] == BEACON for body in bodies) > BEACONS_MAX:
            # Only the last one counts; a relay that sends old ones in turns must not fill the disk.
            last = max(at for at, body in enumerate(bodies) if body[:1] == BEACON)
            bodies = [body for at, body in enumerate(bodies) if body[:1] != BEACON or at == last]
            whole = b"".join(map(_frame, bodies))
            durable_write(self.path, whole, 0o600)
            self._end = len(whole)
        elif cut := len(data[self._end :].rstrip(b"\0")):
            self._has_remains = True
            log("order-log-cut", level="warning", file=self.path, bytes=cut, why="a torn write")
        gone = {body[1:] for body in bodies if body[:1] == FORGOTTEN}
        for body in bodies:
            self._take(body[:1], body[1:])
        self.forgotten = frozenset(gone)

    def _put_aside(self, data: bytes, bodies: list[bytes]) -> None:
        aside = self.path.with_suffix(".damaged")
        durable_write(aside, data, 0o600)
        whole = b"".join(map(_frame, bodies))
        durable_write(self.path, whole, 0o600)
        self._end = len(whole)
        log(
            "order-log-damaged", level="error", kept=aside, records=len(bodies), do="check the disk"
        )

    def _take(self, kind: bytes, record: bytes) -> None:
        if kind == ORDER:
            self.orders.append(record)
        elif kind == ACTED:
            self.acted.append(record)
        elif kind == BEACON:
            self.beacon = record
        elif kind == DECIDED:
            self.decided.append(record)
        elif kind == KNOWN:
            self.known.append(record)
        elif kind == VOUCHED:
            starts = range(0, len(record), _ID_BYTES)
            self.vouched |= {record[at : at + _ID_BYTES] for at in starts}


def read_frames(data: bytes) -> tuple[list[bytes], int, bool]:
    """The bodies of all whole frames, the end of those before a gap, and whether there is damage.

    Damage is what is not whole and can be no torn end either.
    """
    bodies: list[bytes] = []
    at, good_end, is_damaged = 0, 0, False
    # From here on there are zeros alone: room that is held for orders to come.
    written = len(data.rstrip(b"\0"))
    while at < written:
        body = _body_at(data, at)
        if body is not None:
            bodies.append(body)
            at += _HEAD.size + len(body)
            good_end = good_end if is_damaged else at
        elif not is_damaged and (_is_torn(data, at, written) or _is_unfinished(data, at, written)):
            break
        else:
            # What follows the damage may be whole: an order that is lost here could be missed.
            is_damaged = True
            at += 1
    return bodies, good_end, is_damaged


def _frame(body: bytes) -> bytes:
    sizes = _SIZES.pack(len(body), zlib.crc32(body))
    return sizes + struct.pack(">I", zlib.crc32(sizes)) + body


def _body_at(data: bytes, at: int) -> bytes | None:
    length = _length_at(data, at)
    if not length:
        return None
    body = data[at + _HEAD.size : at + _HEAD.size + length]
    _, crc, _ = _HEAD.unpack_from(data, at)
    return body if len(body) == length and zlib.crc32(body) == crc else None


def _length_at(data: bytes, at: int) -> int | None:
    """What a sound head at `at` says; None: there is none."""
    if at + _HEAD.size > len(data):
        return None
    length, _, crc = _HEAD.unpack_from(data, at)
    return length if crc == zlib.crc32(data[at : at + _SIZES.size]) else None


def _is_unfinished(data: bytes, at: int, written: int) -> bool:
    """Whether this can be one write of several records whose blocks reached the disk out of order.

    It was acknowledged to nobody. Nothing whole follows, and it is no longer than such a write.
    """
    if written - at > RESERVE_BYTES:
        return False
    return not any(_body_at(data, later) is not None for later in range(at + 1, written))


def _is_torn(data: bytes, at: int, written: int) -> bool:
    """Whether what begins at `at` can be one write that a crash cut short.

    `written`: where the last byte that is not zero ends; what was not written yet reads as zeros.
    """
    rest = written - at
    length = _length_at(data, at)
    if length is not None:
        return length >= rest - _HEAD.size
    # Of a head that is not whole nothing can be said.
    return rest < _HEAD.size
