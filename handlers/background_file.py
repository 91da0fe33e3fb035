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
from contextlib import suppress
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
    how many lines were lost. At the end of the process, and in a forked child, there is no thread to rely on:
    a write waits for the reader, but not longer than DRAIN_SECONDS.
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
        self._is_direct = False  # writes go without the thread, once it sleeps
        self._is_stalled = False  # the reader let the last direct write wait for too long
        self._bell: SimpleQueue[None] = SimpleQueue()
        threading.Thread(target=self._run, name="log", daemon=True).start()
        os.register_at_fork(after_in_child=self._go_on_in_child)

    def write(self, data: "ReadableBuffer") -> int:
        """Hand the data, whole lines, to the thread."""
        line = bytes(data)
        size = len(line)
        if self._is_direct:  # without the lock: a thread that ended with the process may hold it
            if self._sleeps:
                self._write_now(line)
            return size
        with self._lock:
            # Whatever its size, a line is taken when none waits.
            if self._lost or (self._waiting and self._waiting + size > MAX_BYTES):
                self._lost += 1
            else:
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

    def end(self) -> None:
        """Drain, and write without the thread from now on."""
        self.drain()
        self._is_direct = True

    def _go_on_in_child(self) -> None:
        # What waits is written by the parent. The child may end without `atexit`, so nothing may wait there.
        self._sleeps = self._is_direct = True

    def _write_now(self, line: bytes) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        with suppress(OSError):
            while line:
                self._is_stalled = not poll.poll(0 if self._is_stalled else 1_000 * DRAIN_SECONDS)
                if self._is_stalled:
                    return
                line = line[os.write(self._descriptor, line[: select.PIPE_BUF]) :]  # a pipe has room for that

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
    # Lines go to the file as a whole, also those that `print` writes in parts.
    lines = io.TextIOWrapper(
        file,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,  # type: ignore[type-var]
    )

    def end() -> None:  # callbacks that were registered earlier run after it, and may print
        with suppress(ValueError):  # closed
            lines.flush()
        file.end()

    atexit.register(end)
    return lines
