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
        status = _parent().run(
            {"arguments": list(arguments), "environment": dict(environment), "cwd": str(cwd)},
            [given.fileno(), out.fileno(), err.fileno()],
            timeout,
        )
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(list(arguments), status, out.read().decode(), err.read().decode())


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

    def run(self, request: Mapping[str, object], streams: Sequence[int], timeout: float) -> int:
        """Return the exit status of a command with these standard streams. Raises TimeoutExpired."""
        answers, theirs = os.pipe()
        with open(answers, "rb", buffering=0) as answer:
            try:
                with self._lock:
                    socket.send_fds(self._requests, [json.dumps(request).encode()], [*streams, theirs])
            finally:
                os.close(theirs)
            process = int(answer.read(20).split()[0])
            if not select.select([answer], [], [], timeout)[0]:
                os.kill(process, signal.SIGKILL)
                answer.read()
                raise subprocess.TimeoutExpired(str(request["arguments"]), timeout)
            return int(answer.read(20))

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
