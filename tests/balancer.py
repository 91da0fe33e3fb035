"""HAProxy with a configuration of a test. `.ci/postgresql` installs it."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from csv import DictReader
from pathlib import Path
from types import TracebackType
from typing import Self

from free_ports import free_ports
from process_folder import ProcessFolder

HAPROXY = shutil.which("haproxy", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
NOT_FOUND = "HAProxy not found; install it with .ci/postgresql"
PORTS = 20  # that are tried
START_SECONDS = 60


class Haproxy:
    """A running HAProxy. A block of `with` closes it.

    configuration: its text, in which "${PORT}" between double quotes stands for a free port, as HAProxy
    reads a variable of its environment: bind "127.0.0.1:${PORT}".
    """

    def __init__(self, configuration: str) -> None:
        if HAPROXY is None:
            raise FileNotFoundError(NOT_FOUND)
        self._program = HAPROXY
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ProcessFolder("haproxy-", Path(HAPROXY))
        self._socket = self._folder.path / "socket"
        self._file = self._folder.path / "haproxy.cfg"
        self._file.write_text(configuration)
        (self._folder.path / "socket.cfg").write_text(f"global\n  stats socket {self._socket} level admin\n")
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The URL of the port."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What HAProxy has printed so far, such as its warnings about the configuration."""
        return self._folder.log

    def start(self) -> None:
        """Check the configuration, start HAProxy, and wait until it listens. A port is kept after `stop`."""
        logged = 0
        for port in [self.port] * PORTS if self.port else free_ports(PORTS):
            if self._run(port, "-c").wait() != 0:
                break
            self._process = self._run(port, "-db")
            if self._is_listening(self._process):
                self.port = port
                return
            said, logged = self.log[logged:], len(self.log)
            if "cannot bind socket" not in said:
                break
            time.sleep(0.1)
        raise RuntimeError(f"HAProxy did not start:\n{self.log[-2000:]}")

    def stop(self) -> None:
        """End HAProxy, and the connections through it."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait()

    def close(self) -> None:
        """End HAProxy whatever its state, and remove its folder."""
        self._folder.close()
        if self._process is not None:
            self._process.wait()

    def drain(self, server: str) -> None:
        """Send no new request to a server, such as 'leads/s1'. Those on their way are answered."""
        self._set_state(server, "drain")

    def ready(self, server: str) -> None:
        """Send requests to a server again."""
        self._set_state(server, "ready")

    def statistics(self, server: str) -> dict[str, str]:
        """Return a server's row of `show stat`: its 'status', 'scur' (requests now), 'stot' (in total)."""
        backend, name = server.split("/")
        for row in DictReader(self.command("show stat").removeprefix("# ").splitlines()):
            if (row["pxname"], row["svname"]) == (backend, name):
                return row
        raise KeyError(server)

    def command(self, text: str) -> str:
        """Send a command to the stats socket; return the answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(text.encode() + b"\n")
            with connection.makefile() as answer:
                return answer.read().strip()

    def _set_state(self, server: str, state: str) -> None:
        answer = self.command(f"set server {server} state {state}")
        if answer:
            raise ValueError(answer)

    def _run(self, port: int, *options: str) -> subprocess.Popen[bytes]:
        files = ["-f", str(self._file), "-f", str(self._folder.path / "socket.cfg")]
        return self._folder.start([self._program, *files, *options], os.environ | {"PORT": str(port)})

    def _is_listening(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until HAProxy answers on its stats socket. Return False if it ends instead."""
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError):
                if f"Pid: {process.pid}\n" in self.command("show info"):
                    return True
            time.sleep(0.01)
        return False
