"""The HAProxy of the tests."""

import os
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from balancer import HAPROXY, NOT_FOUND, Haproxy

pytestmark = pytest.mark.skipif(HAPROXY is None, reason=NOT_FOUND)

CONFIGURATION = """\
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
listen leads
  bind "127.0.0.1:${PORT}"
  server s1 127.0.0.1:%d
  server s2 127.0.0.1:%d
"""


class PortHandler(BaseHTTPRequestHandler):
    """Answers with the port that the request came to."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(self.connection.getsockname()[1]).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def ports() -> Iterator[list[int]]:
    """The ports of two web servers."""
    with ExitStack() as stack:
        servers = [stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), PortHandler)) for _ in range(2)]
        threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
        for thread in threads:
            thread.start()
        yield [server.server_address[1] for server in servers]
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()


def answered(haproxy: Haproxy) -> set[int]:
    """Return the ports of the servers that answer some requests."""
    found = set()
    for _ in range(6):
        with urllib.request.urlopen(haproxy.url) as answer:
            found.add(int(answer.read()))
    return found


def test_drained_server_gets_no_request_until_it_is_ready(ports: list[int]) -> None:
    with Haproxy(CONFIGURATION % tuple(ports)) as haproxy:
        assert answered(haproxy) == set(ports)
        haproxy.drain("leads/s1")
        assert haproxy.statistics("leads/s1")["status"] == "DRAIN"
        assert answered(haproxy) == {ports[1]}
        haproxy.ready("leads/s1")
        assert answered(haproxy) == set(ports)
        with pytest.raises(ValueError, match="No such server"):
            haproxy.drain("leads/s3")


def test_started_again_haproxy_has_its_port(ports: list[int]) -> None:
    with Haproxy(CONFIGURATION % tuple(ports)) as haproxy:
        url = haproxy.url
        haproxy.stop()
        with pytest.raises(OSError, match="refused"):
            answered(haproxy)
        haproxy.start()
        assert haproxy.url == url
        assert answered(haproxy) == set(ports)


def test_wrong_configuration_is_shown() -> None:
    with pytest.raises(RuntimeError, match="unknown keyword 'balence'"):
        Haproxy(CONFIGURATION % (1, 2) + "  balence source\n")


def test_closed_haproxy_leaves_nothing(ports: list[int], tmp_path: Path) -> None:
    chroot = f"global\n  chroot {tmp_path}\n" if os.geteuid() == 0 else ""
    with Haproxy(chroot + CONFIGURATION % tuple(ports)) as haproxy:
        processes = [int(haproxy.command("show info").split("Pid: ")[1].split()[0])]
    assert not any(Path(f"/proc/{process}").exists() for process in processes)
