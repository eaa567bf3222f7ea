"""What measured processes say to the harness, over one named pipe.

A line is `WORD INDEX LABEL TIME...`, shorter than PIPE_BUF, so that lines of many never mix.
A pipe and not a datagram socket: the kernel queues ten datagrams there by default, and a thousand
processes that speak at once would wait for the harness in the middle of what it measures.
"""

import fcntl
import os
import threading
import time
from pathlib import Path

# Ten thousand lines: all that a thousand processes say in a round while nobody reads.
PIPE_BYTES = 1 << 20

Times = tuple[float, ...]


class Voice:
    """The writing end, in a measured process."""

    def __init__(self, path: Path, index: int) -> None:
        self._file = os.open(path, os.O_WRONLY)
        self._index = index

    def tell(self, word: str, label: str = "-", *times: float) -> None:
        """Say one thing; it does not wait in practice."""
        words = (word, str(self._index), label, *(f"{each:.6f}" for each in times))
        os.write(self._file, f"{' '.join(words)}\n".encode())


class Mailbox:
    """The reading end: by word and label, who has said so first, and with what times.

    `now`: stamps lines that carry no time of their own (a shell cannot read a clock cheaply).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # Open both ways, so that there is always a reader, and no end of file between two writers.
        self._file = os.open(path, os.O_RDWR)
        fcntl.fcntl(self._file, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._heard: dict[tuple[str, str], dict[int, Times]] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        threading.Thread(target=self._read, daemon=True).start()

    def heard(self, word: str, label: str = "-") -> dict[int, Times]:
        """Who has said this by now, by index."""
        with self._changed:
            return dict(self._heard.get((word, label), {}))

    def all_heard(self, word: str) -> dict[str, dict[int, Times]]:
        """Who has said this word by now, by label and index."""
        with self._changed:
            pairs = [(key[1], dict(said)) for key, said in self._heard.items() if key[0] == word]
        return dict(pairs)

    def wait(self, word: str, label: str, count: int, span_s: float) -> dict[int, Times]:
        """The same once `count` have said it, or at the end of `span_s` with fewer.

        Raises:
            SystemExit: the mailbox was closed.
        """
        deadline = time.monotonic() + span_s
        with self._changed:
            said = self._heard.setdefault((word, label), {})
            while (
                not self._is_closed
                and len(said) < count
                and (left := deadline - time.monotonic()) > 0
            ):
                self._changed.wait(left)
            if self._is_closed:
                raise SystemExit("the run was ended")
            return dict(said)

    def close(self) -> None:
        """End every wait, in whatever thread: the run is over."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _read(self) -> None:
        rest = b""
        while True:
            *lines, rest = (rest + os.read(self._file, PIPE_BYTES)).split(b"\n")
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            with self._changed:
                for line in lines:
                    word, index, label, *times = line.decode().split()
                    said = self._heard.setdefault((word, label), {})
                    said.setdefault(int(index), tuple(map(float, times)) or (now,))
                self._changed.notify_all()
