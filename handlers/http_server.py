"""The HTTP server, with limits on its clients: connections at once, and time for each request."""

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

from handlers.chunked_body import ChunkedConnection

log = logging.getLogger("leads.http")

MAX_CONNECTIONS = 10_000
BACKLOG = 1_024  # connections in the system's queue; a client beyond them retries only after a second
RESERVED_DESCRIPTORS = 64  # for the database, the mail server, the partner, a backup
MAX_ACCEPTED_AT_ONCE = 128  # before other events of the loop are handled
RETRY_ACCEPT_SECONDS = 1.0
# Longer than a client takes to send its next request once it has its answer.
SINGLE_CLIENT_SECONDS = 0.02


def max_connections_allowed() -> int:
    """Raise the limit of open files as far as the system allows; return how many connections fit below it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (OSError, ValueError):  # macOS reports 'unlimited', and then refuses it
        pass
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, soft - RESERVED_DESCRIPTORS))


class LimitedHTTPServer(HTTPServer):
    """HTTP server with at most `max_connections` at once. Further ones wait in the system's queue.

    Without a limit Tornado runs out of file descriptors, and then only repeats the failing accept.
    """

    def initialize(  # type: ignore[override]
        self, *args: Any, max_connections: int, timeout_seconds: float, **kwargs: Any
    ) -> None:
        """timeout_seconds: for a request's headers, again for its body, and again to read an answer."""
        super().initialize(*args, **kwargs)
        self.conn_params.header_timeout = None  # `_close_timed_out` does this
        self._max_connections = max_connections
        self._timeout = timeout_seconds
        # The earliest deadline first, because every timeout is equally long.
        self._deadlines: dict[IOStream, float] = {}
        self._latest: IOStream | None = None  # the connection of the latest request
        self._latest_at = self._other_latest_at = -SINGLE_CLIENT_SECONDS
        self._listeners: list[socket.socket] = []
        self._accepting = False
        self._warned_at = -RETRY_ACCEPT_SECONDS

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on these listening sockets. To be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._listeners += sockets
        self._resume()
        self._close_timed_out()

    def stop(self) -> None:
        """Accept no more connections. Requests on open ones are still served."""
        self._pause()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        super().stop()

    async def close_all_connections(self) -> None:
        """Close the open connections, each after its current request."""
        self._timer.cancel()
        await super().close_all_connections()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Return the delegate of a connection's next request; Tornado calls this before it reads on."""
        # Tornado makes the connection itself, and can't be given another class for it.
        connection = cast(HTTP1Connection, request_conn)
        connection.__class__ = ChunkedConnection
        delegate = super().start_request(server_conn, connection)
        return _IncomingRequest(delegate, connection.stream, self)

    def start_timeout(self, stream: IOStream) -> None:
        """Start the client's timeout anew, for headers, body or answer."""
        self._deadlines.pop(stream, None)
        self._deadlines[stream] = self._loop.time() + self._timeout

    def request_received(self, stream: IOStream) -> None:
        """Stop the client's timeout: its whole request has arrived."""
        self._deadlines.pop(stream, None)
        if stream is not self._latest:
            self._latest, self._other_latest_at = stream, self._latest_at
        self._latest_at = self._loop.time()

    @property
    def has_single_client(self) -> bool:
        """True if only one connection has sent requests for the last SINGLE_CLIENT_SECONDS."""
        return self._latest_at - self._other_latest_at > SINGLE_CLIENT_SECONDS

    def stop_timeout(self, stream: IOStream) -> None:
        """Stop the client's timeout."""
        self._deadlines.pop(stream, None)

    def _close_timed_out(self) -> None:
        # One timer for all connections: a timer for each request costs about 10 % of a request.
        self._timer = self._loop.call_later(min(1.0, self._timeout / 4), self._close_timed_out)
        now = self._loop.time()
        while self._deadlines:
            stream, deadline = next(iter(self._deadlines.items()))
            if deadline > now:
                break
            del self._deadlines[stream]
            stream.close()

    def on_close(self, server_conn: object) -> None:
        """Accept again, as a connection has ended; Tornado calls this."""
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
        for _ in range(MAX_ACCEPTED_AT_ONCE):
            if len(self._connections) >= self._max_connections:
                self._warn("there are as many as there is room for")
                return self._pause()  # `on_close` resumes
            try:
                connection, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return None
            except OSError as error:
                self._warn(error.strerror or "")
                self._loop.call_later(RETRY_ACCEPT_SECONDS, self._resume)
                return self._pause()
            self.handle_stream(_ClientStream(connection, self, max_buffer_size=self.max_buffer_size), address)
        return None

    def _warn(self, reason: str) -> None:
        now = self._loop.time()
        if now - self._warned_at >= RETRY_ACCEPT_SECONDS:
            self._warned_at = now
            facts = {"reason": reason, "connections": len(self._connections)}
            log.warning("no more connections are taken for now", extra=facts)


class _ClientStream(IOStream):
    """Client connection: TCP_NODELAY is always on, and the client has a timeout to read an answer."""

    def __init__(self, connection: socket.socket, server: LimitedHTTPServer, **options: Any) -> None:
        super().__init__(connection, **options)
        super().set_nodelay(True)
        self._server = server
        self._sent: Future[None] = Future()
        self._sent.set_result(None)

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
            self._server.start_timeout(self)
        return future

    def set_nodelay(self, value: bool) -> None:
        """Do nothing: Tornado turns it on and off around each answer, which takes two system calls."""


class _IncomingRequest(HTTPMessageDelegate):
    """A request that is still arriving: starts and stops its client's timeout on the server."""

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
