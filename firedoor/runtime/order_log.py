"""The durable memory of the brake: an append-only file of orders, beacons and resumes that acted.

A record is on disk (fdatasync) before `append` returns. A torn last record is a crash in mid-write
and is cut off; a wrong record with more after it is a damaged file and is refused, so that the
caller can keep its gates closed. Format: u32 length, u32 CRC-32, kind byte and payload.
"""

import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

from firedoor.errors import Malformed, Unavailable

_HEAD = struct.Struct(">II")
ORDER = b"o"
BEACON = b"b"
ACTED = b"a"

# Larger than any order or beacon (limits.py); a length above it is damage, not a record.
_RECORD_BYTES_MAX = 1 << 20


class OrderLog:
    """One log file; blocking, so callers use a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.orders: list[bytes] = []
        self.acted: list[bytes] = []
        self.beacon = b""
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._file = os.open(path, flags, 0o600)
        size = self._load()
        os.ftruncate(self._file, size)
        self._end = size
        os.fsync(self._file)

    def append(self, kind: bytes, record: bytes) -> None:
        """Make one record durable.

        Raises:
            Unavailable: the disk is full or fails; nothing half-written will be believed.
        """
        body = kind + record
        frame = _HEAD.pack(len(body), zlib.crc32(body)) + body
        try:
            os.lseek(self._file, self._end, os.SEEK_SET)
            view = memoryview(frame)
            while view:
                view = view[os.write(self._file, view) :]
            getattr(os, "fdatasync", os.fsync)(self._file)
        except OSError as error:
            # Or its remains would follow a shorter record, and the file would count as damaged.
            with suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise Unavailable(f"recording an order in {self.path}", why=str(error)) from error
        self._end += len(frame)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _load(self) -> int:
        data = self.path.read_bytes()
        at = 0
        while at + _HEAD.size <= len(data):
            length, crc = _HEAD.unpack_from(data, at)
            body = data[at + _HEAD.size : at + _HEAD.size + length]
            if len(body) < length or zlib.crc32(body) != crc or not body:
                if length <= _RECORD_BYTES_MAX and at + _HEAD.size + length >= len(data):
                    break
                raise Malformed(str(self.path), wanted="whole records", got=f"damage at byte {at}")
            if body[:1] == ORDER:
                self.orders.append(body[1:])
            elif body[:1] == ACTED:
                self.acted.append(body[1:])
            else:
                self.beacon = body[1:]
            at += _HEAD.size + length
        return at
