"""Commands of the program as forks of a process that has imported it, which takes Python a second each time.

Each runs server.py from its beginning to its end, in a process with its own arguments, environment, folder
and standard streams.
"""

import atexit
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODULES = ("server", "models.storage.postgres.storage")  # that a command may import
LONGEST_REQUEST = 200_000  # bytes


def run_forked(
    arguments: Sequence[str], environment: Mapping[str, str], cwd: Path, stdin: str = "", timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; return its status and output. Raises TimeoutExpired, once it has ended."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        streams = [given.fileno(), out.fileno(), err.fileno()]
        status = Fork(arguments, environment, cwd, streams).wait(timeout)
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(list(arguments), status, out.read().decode(), err.read().decode())


class Fork:
    """A started command. streams: the descriptors of its standard input, output and error."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        cwd: Path,
        streams: Sequence[int],
    ) -> None:
        request = {"arguments": list(arguments), "environment": dict(environment), "cwd": str(cwd)}
        answers, theirs = os.pipe()
        self._answers = open(answers, "rb", buffering=0)
        try:
            _parent().send(json.dumps(request).encode(), [*streams, theirs])
        finally:
            os.close(theirs)
        self._process = int(self._answers.read(20).split()[0])

    def wait(self, timeout: float = 60) -> int:
        """Return the exit status, as of `subprocess`. Raises TimeoutExpired, once the command has ended."""
        with self._answers as answers:
            has_ended = bool(select.select([answers], [], [], timeout)[0])
            if not has_ended:
                os.kill(self._process, signal.SIGKILL)
            status = int(answers.read(20))
        if not has_ended:
            raise subprocess.TimeoutExpired("a command", timeout)
        return status


class _Parent:
    """The process that has imported the program. It ends with the process of the tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def send(self, request: bytes, descriptors: Sequence[int]) -> None:
        with self._lock:
            socket.send_fds(self._requests, [request], descriptors)

    def close(self) -> None:
        self._requests.close()
        self._process.wait()


@functools.cache
def _parent() -> _Parent:
    parent = _Parent()
    atexit.register(parent.close)
    return parent


def _serve(requests: socket.socket) -> None:
    """Fork for each request. Return in the fork that is the command, or at the end of requests."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, LONGEST_REQUEST, 4)
        if not request:
            sys.exit()
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    requests.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, answer = descriptors
    command = os.fork()
    if command:  # wait for it, and say how it ended
        for stream in streams:
            os.close(stream)
        os.write(answer, b"%d\n" % command)
        _, status = os.waitpid(command, 0)
        os.write(answer, b"%d" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    os.close(answer)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # As Python makes them at its start.
    sys.stdin = open(0, encoding=sys.stdin.encoding, errors=sys.stdin.errors, closefd=False)
    lines_or_blocks = 1 if os.isatty(1) else -1
    sys.stdout = open(
        1, "w", lines_or_blocks, encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False
    )
    sys.stderr = open(2, "w", 1, encoding=sys.stderr.encoding, errors=sys.stderr.errors, closefd=False)
    given = json.loads(request)
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["environment"])
    time.tzset()
    sys.argv = ["server.py", *given["arguments"]]


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    for name in MODULES:
        importlib.import_module(name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_path(str(ROOT / "server.py"), run_name="__main__")
