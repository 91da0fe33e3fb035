"""The log of a real process whose reader stalls, dies, or comes back."""

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from server_process import ROOT, environment

from handlers import background_file
from handlers.background_file import BackgroundFile

pytestmark = pytest.mark.sqlite("the log is the same with either database")

LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z [A-Z]+ .+")


class Pipe:
    """A pipe of one page, which nobody reads until it is told to."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)

    def read_to_end(self) -> str:
        """Read until the last writer has closed it."""
        with suppress(OSError):
            os.close(self.writer)
        with os.fdopen(self.reader, "rb") as file:
            return file.read().decode()


@contextmanager
def server(data_dir: Path, output: int, *command: str, **settings: str) -> Iterator[tuple[int, int]]:
    """Start a server whose standard output and error are this file. Yield its process id and its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = environment(data_dir=str(data_dir), port=str(port), rate_limit="1000000/1", **settings)
    process = subprocess.Popen(
        [sys.executable, *(command or ("server.py", "serve"))],
        cwd=ROOT,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )
    try:
        yield process.pid, port
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()


def send_leads(port: int, count: int) -> None:
    """Send so many leads, each of which must be answered 201."""
    body = json.dumps({"tour_request": {"requestor_email": "jane@renter.test"}}).encode()
    url = f"http://127.0.0.1:{port}/api/v1/website_leads"
    for number in range(count):
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        while True:
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    assert answer.status == 201
                break
            except urllib.error.URLError:
                assert number == 0  # it does not listen yet
                time.sleep(0.05)


def test_leads_are_answered_while_no_one_reads_the_log(tmp_path: Path) -> None:
    pipe = Pipe()
    with server(tmp_path / "data", pipe.writer) as (pid, port):
        send_leads(port, 200)
        os.kill(pid, signal.SIGTERM)
    os.close(pipe.writer)
    os.close(pipe.reader)


def test_no_line_is_missing_once_the_reader_is_back(tmp_path: Path) -> None:
    pipe = Pipe()
    with server(tmp_path / "data", pipe.writer) as (pid, port):
        send_leads(port, 200)
        read: list[str] = []
        reading = threading.Thread(target=lambda: read.append(pipe.read_to_end()))
        reading.start()
        os.kill(pid, signal.SIGTERM)
    reading.join()
    (text,) = read
    leads = [int(number) for number in re.findall(r" answered .* lead=(\d+) status=201", text)]
    assert leads == list(range(1, 201))
    assert "Website leads at" in text and " stopped " in text and "lost" not in text


@pytest.mark.parametrize("output", ["/dev/full", "a pipe without a reader"])
def test_leads_are_answered_while_the_log_can_not_be_written(output: str, tmp_path: Path) -> None:
    if output == "/dev/full":
        writer = os.open(output, os.O_WRONLY)
    else:
        reader, writer = os.pipe()
        os.close(reader)
    with server(tmp_path / "data", writer) as (pid, port):
        send_leads(port, 20)
        os.kill(pid, signal.SIGTERM)
    os.close(writer)


def test_last_lines_of_a_crash_are_written(tmp_path: Path) -> None:
    crash = (
        "import sys, server\n"
        "server.Server.start = lambda self: 1 / 0\n"
        "sys.exit(server.terminal.main(['serve'], {'serve': server.serve}, server.run_checks))"
    )
    done = subprocess.run(
        [sys.executable, "-c", crash],
        cwd=ROOT,
        env=environment(data_dir=str(tmp_path / "data"), port="0"),
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_refused_start_ends_while_no_one_reads_its_reason(tmp_path: Path) -> None:
    pipe = Pipe()
    os.set_blocking(pipe.writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe.writer, b"x" * 512)
    os.set_blocking(pipe.writer, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "server.py", "serve"],
            cwd=ROOT,
            env=environment(data_dir=str(tmp_path / "data"), port=port),
            stdout=pipe.writer,
            stderr=pipe.writer,
            timeout=20,
        )
    assert done.returncode == 1
    assert f"port {port}" not in pipe.read_to_end()


def test_demo_goes_on_while_no_one_reads_its_lines(tmp_path: Path) -> None:
    pipe = Pipe()
    with server(tmp_path, pipe.writer, "server.py", "demo") as (pid, port):
        send_leads(port, 100)
        os.kill(pid, signal.SIGTERM)
    os.close(pipe.writer)
    os.close(pipe.reader)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of 20 kB, and short pauses."""
    monkeypatch.setattr(background_file, "MAX_BYTES", 20_000)
    monkeypatch.setattr(background_file, "RETRY_SECONDS", 0.01)


@pytest.mark.parametrize("is_blocking", [True, False])
def test_what_is_lost_is_counted_behind_what_was_kept(
    small: None, caplog: pytest.LogCaptureFixture, is_blocking: bool
) -> None:
    pipe = Pipe()
    os.set_blocking(pipe.writer, is_blocking)
    file = BackgroundFile(pipe.writer)
    for number in range(1_000):
        file.write(b"%07d %s\n" % (number, b"x" * 91))

    def finish() -> None:
        file.drain()
        os.close(pipe.writer)

    writer = threading.Thread(target=finish)
    writer.start()
    with os.fdopen(pipe.reader, "rb") as reader:
        lines = reader.read().splitlines()
    writer.join()
    assert [int(line[:7]) for line in lines] == list(range(len(lines)))
    assert all(len(line) == 99 for line in lines)
    assert 200 <= len(lines) < 300
    (record,) = [record for record in caplog.records if record.message == "log lines lost"]
    assert vars(record)["count"] == 1_000 - len(lines)


def test_lines_of_a_full_disk_are_written_once_it_has_room(
    small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    failures = [OSError(28, "No space left on device")] * 3
    system_write = os.write

    def write(descriptor: int, data: bytes) -> int:
        if descriptor != 10_000:
            return system_write(descriptor, data)
        if failures:
            raise failures.pop()
        written.append(data[:50])  # in part
        return len(written[-1])

    monkeypatch.setattr(os, "write", write)
    file = BackgroundFile(10_000)
    for number in range(50):
        file.write(b"%07d\n" % number)
    file.drain()
    assert b"".join(written) == b"".join(b"%07d\n" % number for number in range(50))


def test_lines_of_many_threads_are_whole_and_in_their_order(small: None) -> None:
    pipe, numbers = Pipe(), range(40)
    file = BackgroundFile(pipe.writer)

    def write(name: int) -> None:
        for number in numbers:
            file.write(b"%d %d\n" % (name, number))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.drain()
    os.close(pipe.writer)
    with os.fdopen(pipe.reader) as reader:
        pairs = [line.split() for line in reader]
    assert len(pairs) == 8 * len(numbers)
    for name in range(8):
        assert [int(number) for of, number in pairs if of == str(name)] == list(numbers)


def test_line_above_the_limit_is_written_and_stops_no_later_one(small: None) -> None:
    reader, writer = os.pipe()
    file = BackgroundFile(writer)
    file.drain()  # the thread sleeps
    file.write(b"x" * 20_001 + b"\n")
    file.drain()
    file.write(b"later\n")
    file.drain()
    os.close(writer)
    with os.fdopen(reader, "rb") as read:
        assert [len(line) for line in read.read().splitlines()] == [20_001, 5]


EARLIER = """
import atexit, logging, os, sys
from handlers.background_file import in_background
def earlier():
    print("from atexit")
    logging.warning("logged at exit")
    raise ValueError("raised at exit")
atexit.register(earlier)
sys.stdout, sys.stderr = in_background(sys.stdout), in_background(sys.stderr)
logging.basicConfig()
"""
ENDS = {
    "traceback": ("raise RuntimeError('boom')", ["RuntimeError: boom"]),
    "message": ("sys.exit('a reason')", ["a reason"]),
    "part of a line": ("print('part', end='')", ["part"]),
    "closed stream": ("sys.stdout.flush(); print('e', file=sys.stderr); sys.stderr.close()", ["e"]),
    "destructor": (
        "class Late:\n def __del__(self): raise ValueError('too late')\nlate = Late()",
        ["ValueError: too late"],
    ),
    "forked child": (
        "if child := os.fork(): os.waitpid(child, 0)\nelse:\n print('of child'); print('rest', end='')",
        ["of child", "rest"],
    ),
    "child without atexit": (
        "print('first')\n"
        "if child := os.fork(): os.waitpid(child, 0)\n"
        "else:\n logging.warning('of child'); os._exit(0)",
        ["first", "of child"],
    ),
}


@pytest.mark.parametrize("end, expected", ENDS.values(), ids=ENDS)
def test_text_at_the_end_of_the_process_is_written(end: str, expected: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLIER + end],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=20,
    )
    late = [] if end.endswith("close()") else ["logged at exit", "raised at exit"]
    for text in [*expected, "from atexit", *late]:
        assert text in done.stdout
    assert done.stdout.count("first") <= 1  # not by the child as well


def test_process_ends_while_no_one_reads_what_atexit_prints() -> None:
    pipe = Pipe()
    many = "for number in range(3_000): print('x' * 100)"
    child = "if child := os.fork(): os.waitpid(child, 0)"
    done = subprocess.run(
        [sys.executable, "-c", f"{EARLIER}{many}\n{child}\n{many}"],
        cwd=ROOT,
        stdout=pipe.writer,
        stderr=pipe.writer,
        timeout=20,
    )
    assert done.returncode == 0
    os.close(pipe.writer)
    os.close(pipe.reader)
