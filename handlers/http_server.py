"""Owns the connections of clients: how many there may be at once, and how long each may keep us waiting."""

import asyncio
import logging
import resource
import socket
from asyncio import Future
from collections.abc import Awaitable, Iterable
from typing import Any, cast

from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream

log = logging.getLogger("leads.http")

MAX_CONNECTIONS = 10_000
BACKLOG = 1_024  # connections that wait in the queue; one too many tries again only after a second
KEPT_FREE = 64  # descriptors for the database, the mail server, the partner, a backup
ACCEPTED_AT_ONCE = 128  # then whoever else waits for the loop has a turn
LOOK_AGAIN_SECONDS = 1.0
QUIET_SECONDS = 0.02  # longer than a crowd that is answered takes until the first of it sends again


def max_connections_allowed() -> int:
    """Have the system let this process open all that it may; how many clients there is room for then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (OSError, ValueError):  # macOS says 'unlimited' and takes less
        pass
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, soft - KEPT_FREE))


class LimitedHTTPServer(HTTPServer):
    """An HTTP server that takes so many connections at once; the others wait in the system's queue.

    Tornado's own, once it has no descriptor left, asks for the next connection again and again and does
    nothing else.
    """

    def initialize(  # type: ignore[override]
        self, *args: Any, max_connections: int, timeout_seconds: float, **kwargs: Any
    ) -> None:
        """timeout_seconds: how long a client may take for its headers, and again for its body."""
        super().initialize(*args, **kwargs)
        self.conn_params.header_timeout = None  # see `_close_late_ones`
        self._most_connections = max_connections
        self._timeout = timeout_seconds
        # By when the rest of what it sends is to be here; the earliest first, as all have the same time.
        self._due: dict[IOStream, float] = {}
        self._latest: IOStream | None = None  # that sent a request
        self._latest_at = self._another_at = -QUIET_SECONDS
        self._listeners: list[socket.socket] = []
        self._accepting = False
        self._told_at = -LOOK_AGAIN_SECONDS

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on these listening sockets; call it on the loop."""
        self._loop = asyncio.get_running_loop()
        self._listeners += sockets
        self._resume()
        self._close_late_ones()

    def stop(self) -> None:
        """Accept no more; what was accepted goes on."""
        self._pause()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        super().stop()

    async def close_all_connections(self) -> None:
        """Close what is still open, once it is over."""
        self._looking.cancel()
        await super().close_all_connections()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Tornado calls this when it begins to wait for a request."""
        delegate = super().start_request(server_conn, request_conn)
        return _IncomingRequest(delegate, cast(HTTP1Connection, request_conn).stream, self)

    def start_timeout(self, stream: IOStream) -> None:
        """From now on the client has its time, for the headers or for the body."""
        self._due.pop(stream, None)
        self._due[stream] = self._loop.time() + self._timeout

    def request_received(self, stream: IOStream) -> None:
        """A request is here as a whole."""
        self._due.pop(stream, None)
        if stream is not self._latest:
            self._latest, self._another_at = stream, self._latest_at
        self._latest_at = self._loop.time()

    @property
    def has_single_client(self) -> bool:
        """Whether, since a while before the latest request, nothing came but by its connection."""
        return self._latest_at - self._another_at > QUIET_SECONDS

    def stop_timeout(self, stream: IOStream) -> None:
        """Nothing comes any more by this connection."""
        self._due.pop(stream, None)

    def _close_late_ones(self) -> None:
        # One look for all, now and then: a timer for each request takes a tenth of the time of a lead.
        self._looking = self._loop.call_later(min(1.0, self._timeout / 4), self._close_late_ones)
        now = self._loop.time()
        while self._due and (first := next(iter(self._due.items())))[1] <= now:
            del self._due[first[0]]
            first[0].close()

    def on_close(self, server_conn: object) -> None:
        """Tornado calls this when a connection has ended."""
        super().on_close(server_conn)
        self.stop_timeout(cast(HTTP1ServerConnection, server_conn).stream)
        self._resume()

    def _resume(self) -> None:
        if not self._accepting:
            self._accepting = True
            for listener in self._listeners:
                self._loop.add_reader(listener, self._accept, listener)

    def _pause(self) -> None:
        self._accepting = False
        for listener in self._listeners:
            self._loop.remove_reader(listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if len(self._connections) >= self._most_connections:
                self._tell("there are as many as there is room for")
                return self._pause()  # until one of them ends
            try:
                connection, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return None
            except OSError as error:
                self._tell(error.strerror or "")
                self._loop.call_later(LOOK_AGAIN_SECONDS, self._resume)
                return self._pause()
            self.handle_stream(_ClientStream(connection, self, max_buffer_size=self.max_buffer_size), address)
        return None

    def _tell(self, reason: str) -> None:
        now = self._loop.time()
        if now - self._told_at >= LOOK_AGAIN_SECONDS:
            self._told_at = now
            facts = {"reason": reason, "connections": len(self._connections)}
            log.warning("no more connections are taken for now", extra=facts)


class _ClientStream(IOStream):
    """A connection that never holds an answer back, without being told so for each of them, and whose client
    has no more time to read an answer than to send a request.
    """

    def __init__(self, connection: socket.socket, server: LimitedHTTPServer, **options: Any) -> None:
        super().__init__(connection, **options)
        super().set_nodelay(True)
        self._server = server
        self._sent: Future[None] = Future()
        self._sent.set_result(None)

    def write(self, data: bytes | memoryview) -> "Future[None]":
        """Send this; what the client does not take at once it has its time for."""
        if not self.writing() and not self.closed():
            # Nearly always all of it is taken. Tornado's own way there is three times as long.
            try:
                sent = self.socket.send(data)
            except OSError:  # which Tornado meets again
                sent = 0
            if sent == len(data):
                return self._sent
            data = memoryview(data)[sent:]
        future = super().write(data)
        if self.writing():
            self._server.start_timeout(self)
        return future

    def set_nodelay(self, value: bool) -> None:
        """Tornado turns it on and off again around each answer: two calls of the system."""


class _IncomingRequest(HTTPMessageDelegate):
    """A request that is on its way in: tells its server of how far it has come."""

    def __init__(self, delegate: HTTPMessageDelegate, stream: IOStream, server: LimitedHTTPServer) -> None:
        self._delegate, self._stream, self._server = delegate, stream, server
        server.start_timeout(stream)

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._server.start_timeout(self._stream)
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._server.request_received(self._stream)
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._server.stop_timeout(self._stream)
        self._delegate.on_connection_close()
