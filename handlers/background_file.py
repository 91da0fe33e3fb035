"""A file that is written by a thread of its own, so that a reader who stalls stops nobody else.

A write to standard error blocks while its reader does not read: a stalled journal or container runtime, a
terminal after Ctrl-S. On the event loop it would stop the whole server.
"""

import atexit
import io
import logging
import os
import select
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

log = logging.getLogger("leads.log")

MAX_BYTES = 4 * 2**20  # that wait for the reader, about 30,000 lines; beyond, lines are dropped
BATCH_LINES = 16  # in one write, if a pipe takes them without a line of another writer in between
GATHER_SECONDS = 0.02  # between two turns of the thread, each of which takes the GIL from the event loop
RETRY_SECONDS = 1.0  # after a failed write, as on a full disk
DRAIN_SECONDS = 1.0  # how long the end of the process waits for the reader


class BackgroundFile(io.RawIOBase):
    """A file whose writes never block and never fail. Each is kept, or dropped, as a whole.

    Once the limit is reached, everything is dropped until the reader has read what waits. Then the log says
    how many lines were lost.
    """

    def __init__(self, descriptor: int) -> None:
        """descriptor: of the file; it stays open, and may be shared with other processes."""
        self._descriptor = descriptor
        # Reentrant, as is the queue: a destructor may log at any moment.
        self._lock = threading.RLock()
        self._lines: list[bytes] = []
        self._waiting = 0  # bytes, with those that are being written
        self._lost = 0  # lines
        self._sleeps = False  # the thread, until the bell rings: everything is written
        self._bell: SimpleQueue[None] = SimpleQueue()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, data: "ReadableBuffer") -> int:
        """Hand the data, whole lines, to the thread."""
        line = bytes(data)
        size = len(line)
        with self._lock:
            if self._lost or self._waiting + size > MAX_BYTES:
                self._lost += 1
                return size
            self._lines.append(line)
            self._waiting += size
            if self._sleeps:
                self._sleeps = False
                self._bell.put(None)
        return size

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def drain(self) -> None:
        """Wait until everything is written, but not longer than DRAIN_SECONDS."""
        until = time.monotonic() + DRAIN_SECONDS
        while not self._sleeps and time.monotonic() < until:
            time.sleep(0.001)

    def _run(self) -> None:
        while True:
            with self._lock:
                lines, self._lines = self._lines, []
                lost, self._lost = (self._lost, 0) if not lines else (0, self._lost)
                is_idle = self._sleeps = not lines and not lost
            if is_idle:
                self._bell.get()
            elif lost:
                log.warning("log lines lost", extra={"count": lost})
            else:
                self._write_lines(lines)
                time.sleep(GATHER_SECONDS)

    def _write_lines(self, lines: list[bytes]) -> None:
        for at in range(0, len(lines), BATCH_LINES):
            some = lines[at : at + BATCH_LINES]
            batch = b"".join(some)
            for whole in [batch] if len(batch) <= select.PIPE_BUF else some:
                self._write_out(whole)
            with self._lock:
                self._waiting -= len(batch)

    def _write_out(self, batch: bytes) -> None:
        while batch:
            try:
                batch = batch[os.write(self._descriptor, batch) :]
            except BlockingIOError:  # another process that shares the file has made it so
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll(1_000 * RETRY_SECONDS)
            except OSError:  # a disk may get room again, and a named pipe another reader
                time.sleep(RETRY_SECONDS)


def in_background(stream: TextIO) -> TextIO:
    """Return a stream that writes to the same file in a thread, which the end of the process waits for."""
    stream.flush()
    file = BackgroundFile(stream.fileno())
    atexit.register(file.drain)
    # Lines go to the file as a whole, also those that `print` writes in parts.
    return io.TextIOWrapper(
        file,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,  # type: ignore[type-var]
    )
