"""ClientStream: one client's connection, read and written with a bounded cost for each byte."""

import socket
from asyncio import Future, TimerHandle
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Protocol

from tornado.ioloop import IOLoop
from tornado.iostream import IOStream

from handlers.connection_shares import ConnectionShares, Holder
from handlers.source_address import Address

MAX_HEAD_BYTES = 16 * 1024  # of a request: its first line and its headers
HEAD_ENDS = (b"\n\r\n", b"\n\n")
# An honest client sends a request in a few packets. So many more reads are free, and each further one has to
# bring BYTES_A_READ. A client that sends less is read every GATHER_SECONDS, however often it sends.
FREE_READS = 16
BYTES_A_READ = 256
GATHER_SECONDS = 0.025
MAX_DISCARDED_BYTES = 1024 * 1024


class ClientTimeouts(Protocol):
    """What starts the timeout of a client."""

    def start_timeout(self, stream: "ClientStream") -> None:
        """Start the client's timeout anew."""


class ClientStream(IOStream):
    """Client connection: TCP_NODELAY is always on, and the client has a timeout to read an answer.

    throttled: how many answers of 429 it has received in a row. holder, is_proxy: as of `Connection`.
    has_sent_request: the head of a request has arrived.
    """

    throttled = 0
    has_sent_request = False
    holder: Holder | None = None
    is_proxy = False

    def __init__(
        self, connection: socket.socket, timeouts: ClientTimeouts, shares: ConnectionShares, **options: Any
    ) -> None:
        super().__init__(connection, **options)
        super().set_nodelay(True)
        self._timeouts, self._shares = timeouts, shares
        self._sent: Future[None] = Future()
        self._sent.set_result(None)
        self._searched = 0  # bytes of the buffer that hold no end of the head
        self._free_reads = FREE_READS
        self._gathering: TimerHandle | None = None

    def start_request(self) -> None:
        """Begin to count the reads of the next request."""
        self._free_reads = FREE_READS

    def claim(self, source: Address) -> bool:
        """Count the connection for the address that its request comes from; False if that has its share."""
        return self._shares.claim(self, source)

    def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        """Read a request's head. Tornado's connection calls this, and for nothing else.

        A head without an end is returned as well, once it has MAX_HEAD_BYTES. So the server can answer.
        """
        self._searched = 0
        return super().read_until_regex(regex)

    def _find_read_pos(self) -> int | None:
        # Tornado searches the whole head again after each packet.
        if self._read_regex is None:
            return super()._find_read_pos()
        buffer = self._read_buffer
        found = [
            (at, end) for end in HEAD_ENDS if (at := buffer.find(end, self._searched, MAX_HEAD_BYTES)) >= 0
        ]
        if found:
            at, end = min(found)
            return at + len(end)
        self._searched = max(0, len(buffer) - 2)  # the end may arrive in two packets
        return len(buffer) if len(buffer) >= MAX_HEAD_BYTES else None

    def unread(self, data: bytes) -> None:
        """Put bytes back in front of those that have not been read yet."""
        self._read_buffer[:0] = data
        self._read_buffer_size += len(data)

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Receive bytes; none for a while from a client that sends a few at a time."""
        if self._gathering is not None:
            return None
        size = super().read_from_fd(buf)
        if size:
            self._free_reads += size // BYTES_A_READ - 1
            if self._free_reads < 0:
                self._free_reads = 0
                self._gathering = self.io_loop.asyncio_loop.call_later(  # type: ignore[attr-defined]
                    GATHER_SECONDS, self._read_gathered
                )
        return size

    def _read_gathered(self) -> None:
        self._gathering = None
        if not self.closed() and self._state is not None:  # else the stream has not waited for events yet
            super()._handle_events(self.socket, IOLoop.READ)

    def _handle_events(self, fd: Any, events: int) -> None:
        if self._gathering is not None and events & IOLoop.READ and self._state is not None:
            events &= ~IOLoop.READ
            self._state &= ~IOLoop.READ  # `_read_gathered` turns it on again
            self.io_loop.update_handler(fd, self._state)
            if not events:
                return
        super()._handle_events(fd, events)

    def write(self, data: bytes | memoryview) -> "Future[None]":
        """Send the data. If the client does not take all of it at once, its timeout starts."""
        if not self.writing() and not self.closed():
            # Nearly always the socket takes all of it. Tornado's write takes three times as long.
            try:
                sent = self.socket.send(data)
            except OSError:  # Tornado's write raises it again
                sent = 0
            if sent == len(data):
                return self._sent
            data = memoryview(data)[sent:]
        future = super().write(data)
        if self.writing():
            self._timeouts.start_timeout(self)
        return future

    def close_fd(self) -> None:
        """Close the socket. What has arrived is read, or the system would reset the connection.

        Then the client might never read its answer.
        """
        with suppress(OSError):
            for _ in range(MAX_DISCARDED_BYTES // self.read_chunk_size):
                if not self.socket.recv(self.read_chunk_size):
                    break
        super().close_fd()

    def set_nodelay(self, value: bool) -> None:
        """Do nothing: Tornado turns it on and off around each answer, which takes two system calls."""
