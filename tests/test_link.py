"""The link that can be cut."""

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest
from link import CUT_NEEDS_ROOT, Link, can_cut

pytestmark = pytest.mark.skipif(not can_cut(), reason=CUT_NEEDS_ROOT)

QUIET_SECONDS = 0.3  # in which a cut link forwards nothing


class Echo(socketserver.StreamRequestHandler):
    """Sends back each line."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def link() -> Iterator[Link]:
    """A link to a server that sends back each line."""
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        with Link(server.server_address[1]) as link:
            yield link
        server.shutdown()
        serving.join()


def connect(link: Link, seconds: float = 30) -> socket.socket:
    """Return a connection that waits for so many seconds."""
    return socket.create_connection(("127.0.0.1", link.port), timeout=seconds)


def received(connection: socket.socket) -> bytes:
    """Return the next line."""
    line = b""
    while not line.endswith(b"\n") and (data := connection.recv(65_536)):
        line += data
    return line


def echo(connection: socket.socket) -> bytes:
    """Send a line; return what comes back."""
    connection.sendall(b"hello\n")
    return received(connection)


def is_silent(connection: socket.socket) -> bool:
    """Send a line. True if nothing comes back, not even the end of the connection."""
    connection.settimeout(QUIET_SECONDS)
    try:
        echo(connection)
    except TimeoutError:
        return True
    return False


def test_bytes_and_ends_are_forwarded(link: Link) -> None:
    with connect(link) as first, connect(link) as second:
        line = b"x" * 2_000_000 + b"\n"
        sending = threading.Thread(target=first.sendall, args=(line,))
        sending.start()
        assert received(first) == line
        sending.join()
        assert echo(second) == b"hello\n"
        first.shutdown(socket.SHUT_WR)
        assert first.recv(1) == b""


def test_cut_link_acknowledges_no_packet(link: Link) -> None:
    with connect(link) as connection:
        assert echo(connection) == b"hello\n"
        link.cut()
        assert is_silent(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 400)
        connection.settimeout(30)
        with pytest.raises(TimeoutError, match="Connection timed out"):  # says the kernel
            connection.recv(1)


def test_new_connection_to_a_cut_link(link: Link) -> None:
    link.cut()
    with connect(link) as connection:
        assert is_silent(connection)
    link.mend()
    link.cut("unanswered")
    with pytest.raises(TimeoutError):
        connect(link, QUIET_SECONDS)
    link.mend()
    link.cut("refused")
    with pytest.raises(ConnectionRefusedError):
        connect(link)
    link.mend()
    with connect(link) as connection:
        assert echo(connection) == b"hello\n"


def test_mended_link_forwards_new_connections_only(link: Link) -> None:
    with connect(link) as old:
        echo(old)
        link.cut()
        link.mend()
        assert is_silent(old)
        with connect(link) as new:
            assert echo(new) == b"hello\n"


def test_delayed_bytes_arrive_when_the_link_is_mended(link: Link) -> None:
    with connect(link) as old:
        echo(old)
        link.cut()
        with connect(link) as new:
            assert is_silent(old)
            assert is_silent(new)
            link.mend(delayed=True)
            for connection in (old, new):
                connection.settimeout(30)
                assert received(connection) == b"hello\n"


def test_closed_target_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Link(port) as link, connect(link) as connection:
        assert connection.recv(1) == b""
