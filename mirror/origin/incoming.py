"""Pieces that a publisher has uploaded and no release names yet, apart from all others.

* Only what a publisher has announced is taken: the pieces that the origin told it are missing.
* They lie in a folder of their own and join the others when a release that names them is taken in.
  What is left of a publish that failed goes at the next start, or after a while.
* One publisher's waiting pieces take at most half of what is free, so they keep nobody else's out.
"""

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from firedoor.errors import NoRoom, Refused, Unavailable, Untrusted
from firedoor.identity import PeerId
from firedoor.limits import PIECES_MAX
from firedoor.runtime.clocks import Clock
from firedoor.runtime.logs import log
from firedoor.runtime.storage.piece_store import PieceStore
from firedoor.units import MIB, Instant, Span, after

# A publish that brings nothing for so long has failed; the next one uploads its pieces again.
IDLE_SPAN = Span(3600.0)

# How often that is looked at.
LOOK_S = 60.0

# What pieces leave free for metadata, databases and logs of the origin.
LEFT_FREE_BYTES = 8 * MIB


@dataclass(slots=True)
class Upload:
    """What one publisher has announced and brought. `until`: when it counts as failed."""

    wanted: set[bytes]
    until: Instant
    brought: set[bytes] = field(default_factory=set)
    size: int = 0


class Incoming:
    """The uploads of one origin; blocking but for `keep_sweeping`. `store`: where they end up."""

    def __init__(self, folder: Path, store: PieceStore) -> None:
        self._store = store
        self._waiting = PieceStore(folder)
        self._waiting.keep_only(frozenset())
        self._uploads: dict[PeerId, Upload] = {}
        # Requests and the sweep come in threads.
        self._lock = threading.RLock()

    def announce(self, publisher: PeerId, digests: Iterable[bytes], now: Instant) -> list[bytes]:
        """Those of `digests` that are to be uploaded, beside what this publisher announced before.

        Pieces that it has brought already are not asked for again.
        """
        missing = [each for each in dict.fromkeys(digests) if not self._store.has(each)]
        with self._lock:
            # Two publishes by one key may be under way.
            upload = self._uploads.pop(publisher, None) or Upload(set(), now)
            upload.wanted |= set(missing)
            upload.until = after(now, IDLE_SPAN)
            self._uploads[publisher] = upload
            while sum(len(each.wanted) for each in self._uploads.values()) > PIECES_MAX:
                # Whoever has announced the most: no one key ends the publish of another.
                self._forget(max(self._uploads, key=lambda peer: len(self._uploads[peer].wanted)))
            return [each for each in missing if each not in upload.brought]

    def require_announced(self, publisher: PeerId, digest: bytes) -> None:
        """Nothing, if this publisher has announced the piece; known before its bytes are read.

        Raises:
            Untrusted: it has not.
        """
        with self._lock:
            self._announced(publisher, digest)

    def put(self, publisher: PeerId, digest: bytes, stored: bytes, now: Instant) -> None:
        """Take one announced piece in.

        Raises:
            Untrusted: it was not announced, or the bytes have another digest.
            NoRoom: this publisher's waiting pieces have their share.
        """
        with self._lock:
            upload = self._announced(publisher, digest)
            if digest in upload.brought:
                return
            share = (self._waiting.free() + upload.size - LEFT_FREE_BYTES) // 2
            if upload.size + len(stored) > share:
                why = "a publish may take half of what is free, and this one has; free room there"
                raise NoRoom("the origin's disk", why=why)
            self._waiting.put(digest, stored)
            upload.brought.add(digest)
            upload.size += len(stored)
            upload.until = after(now, IDLE_SPAN)

    def holds(self, publisher: PeerId, digest: bytes) -> bool:
        """Whether this publisher has brought the piece."""
        with self._lock:
            upload = self._uploads.get(publisher)
            return upload is not None and digest in upload.brought

    def settle(self, publisher: PeerId, digests: Iterable[bytes]) -> None:
        """A release that names these is taken in: they join the others.

        Raises:
            Unavailable: one of them cannot be moved.
        """
        with self._lock:
            for digest in digests:
                if self.holds(publisher, digest):
                    self._store.adopt(self._waiting, digest)

    def finish(self, publisher: PeerId, digests: Iterable[bytes]) -> None:
        """This publisher's release with these pieces is in: they wait no more."""
        with self._lock:
            upload = self._uploads.get(publisher)
            if upload is None:
                return
            done = upload.brought & set(digests)
            if upload.brought:
                # Pieces are of one size, near enough, for a share of the disk.
                upload.size -= upload.size * len(done) // len(upload.brought)
            upload.wanted -= set(digests)
            upload.brought -= done
            if not upload.brought:
                self._forget(publisher)

    def sweep(self, now: Instant) -> int:
        """Forget uploads that nothing was brought for; how many."""
        with self._lock:
            gone = [peer for peer, upload in self._uploads.items() if now >= upload.until]
            for peer in gone:
                self._forget(peer)
            return len(gone)

    def _announced(self, publisher: PeerId, digest: bytes) -> Upload:
        upload = self._uploads.get(publisher)
        if upload is None or digest not in upload.wanted:
            got = digest.hex()[:12]
            raise Untrusted("piece", wanted="one that was announced first", got=got)
        return upload

    def _forget(self, publisher: PeerId) -> None:
        upload = self._uploads.pop(publisher, None)
        if upload is None:
            return
        others = {digest for each in self._uploads.values() for digest in each.brought}
        for digest in upload.brought - others:
            try:
                self._waiting.remove(digest)
            except (Unavailable, Refused) as error:
                log("upload-not-swept", level="error", why=str(error), do="free disk space")


async def keep_sweeping(incoming: Incoming, clock: Clock) -> None:
    """Forget failed uploads, for ever."""
    while True:
        await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(incoming.sweep, clock.now())
