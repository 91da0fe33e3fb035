"""A network link to a server of this machine, which can be cut as a cable is: it loses packets, not bytes.

While it is cut, Linux drops each packet that reaches the link's sockets. So nothing is acknowledged: the
keepalives and timeouts of TCP work as they do when a cable is pulled or a machine has no power. Newer kernels
let only root do so.
"""

import ctypes
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self

from free_ports import free_ports

NewConnections = Literal["unanswered", "accepted", "refused"]
CUT_NEEDS_ROOT = "NOT RUN: to cut a link needs root"

# Of <asm-generic/socket.h>, and a socket filter whose one instruction keeps 0 bytes of each packet.
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
KEEP_NOTHING = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))


def can_cut() -> bool:
    """True if this user may cut a link."""
    with socket.socket() as end:
        try:
            _lose_packets(end)
        except PermissionError:
            return False
        return True


def _lose_packets(end: socket.socket) -> None:
    """Let the socket lose each packet that it is sent. It sends no more, except what it was told before."""
    program = struct.pack("@HP", 1, ctypes.addressof(KEEP_NOTHING))
    end.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def _receive_packets(end: socket.socket) -> None:
    with suppress(FileNotFoundError):  # it had no filter
        end.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


class Link:
    """A port of 127.0.0.1 that leads to another port. A block of `with` closes it.

    If nothing listens on the other port, a connection is accepted and then closed.
    """

    def __init__(self, target_port: int) -> None:
        [self.port] = free_ports(1)
        self._target_port = target_port
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._dead: set[_Connection] = set()
        self._is_cut = self._is_closed = False
        # The port is given, so that the socket keeps it while it does not listen.
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def cut(self, new: NewConnections = "accepted") -> None:
        """Forward nothing more in either direction; neither end is told.

        new: what becomes of new connections. 'unanswered': as when a cable is pulled. 'accepted': but nothing
        is forwarded, as by a balancer. 'refused': as by a machine on which no such server runs.
        """
        with self._lock:
            self._is_cut = True
            for connection in self._connections:
                connection.cut()
            if new == "unanswered":
                _lose_packets(self._listener)
            elif new == "refused":
                self._refuse()

    def mend(self, *, delayed: bool = False) -> None:
        """Forward new connections again.

        delayed: connections of before go on, and what was sent on them meanwhile arrives now. By default they
        are dead, as if the other machine had lost its power: neither end hears of the other again.
        """
        with self._lock:
            self._is_cut = False
            if delayed:
                for connection in self._connections:
                    connection.mend()
            else:
                self._dead |= self._connections
                self._connections.clear()
            _receive_packets(self._listener)
            if not self._is_listening:
                self._listen()

    def close(self) -> None:
        """Close the port and all connections."""
        with self._lock:
            self._is_closed = True
            self._refuse()
            connections = self._connections | self._dead
        self._accepting.join()
        self._listener.close()
        for connection in connections:
            connection.close()

    def _listen(self) -> None:
        self._listener.listen(128)
        self._is_listening = True
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _refuse(self) -> None:
        if self._is_listening:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._is_listening = False

    def _accept(self) -> None:
        with suppress(OSError):  # it does not listen any more
            while True:
                client, _ = self._listener.accept()
                with self._lock:
                    if self._is_closed:
                        client.close()
                        continue
                    connection = _Connection(client, self._target_port, self._discard)
                    self._connections.add(connection)
                    if self._is_cut:
                        connection.cut()
                    connection.start()

    def _discard(self, connection: "_Connection") -> None:
        with self._lock:
            self._connections.discard(connection)


class _Connection(threading.Thread):
    """A connection of a client, and the one to the other port that its bytes go to."""

    def __init__(
        self, client: socket.socket, target_port: int, ended: Callable[["_Connection"], None]
    ) -> None:
        """ended: called at the end, while the sockets are still open."""
        super().__init__(daemon=True)
        self._target_port, self._ended = target_port, ended
        self._client = client
        self._server = socket.socket()
        self._mended = threading.Event()
        self._mended.set()

    def run(self) -> None:
        with self._client, self._server:
            try:
                self._forward_both()
            except OSError:
                pass  # the other port is closed
            finally:
                self._ended(self)

    def cut(self) -> None:
        self._mended.clear()
        for end in (self._client, self._server):
            _lose_packets(end)

    def mend(self) -> None:
        for end in (self._client, self._server):
            _receive_packets(end)
        self._mended.set()

    def close(self) -> None:
        while self.is_alive():
            self._mended.set()
            _shut(self._client, self._server)
            self.join(0.01)

    def _forward_both(self) -> None:
        self._mended.wait()
        self._server.connect(("127.0.0.1", self._target_port))
        for end in (self._client, self._server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answering = threading.Thread(target=self._forward, args=(self._server, self._client), daemon=True)
        answering.start()
        self._forward(self._client, self._server)
        answering.join()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        """Forward what the source sends, and its end. If the connection breaks, end it at both ends."""
        try:
            while data := source.recv(65_536):
                self._mended.wait()
                target.sendall(data)
            self._mended.wait()
            target.shutdown(socket.SHUT_WR)
        except OSError:
            self._mended.wait()
            _shut(source, target)


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):  # it is not connected
            end.shutdown(socket.SHUT_RDWR)
