"""Processes of the program: commands run to their end, and servers."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from databases import settings_of
from program_forks import run_forked

ROOT = Path(__file__).parent.parent


def environment(**settings: str) -> dict[str, str]:
    """This process's environment, with these settings and no other LEADS_ ones.

    With a data folder comes its database; see databases.py.
    """
    if "data_dir" in settings and "database_url" not in settings:
        settings |= settings_of(settings["data_dir"])
    rest = {name: value for name, value in os.environ.items() if not name.startswith("LEADS_")}
    return rest | {"LEADS_" + name.upper(): value for name, value in settings.items()}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return run_forked(arguments, environment(**settings), ROOT)


UNTIL = {"serve": r"leads at (\S+)", "sandbox": r"Sandbox at (\S+)", "demo": r"livez +(\S+)/readyz"}


class Program:
    """A started server: its URL, and its output so far."""

    def __init__(self, process: subprocess.Popen[str], until: str) -> None:
        self.process = process
        self.output = ""
        self.url = self.read_until(until)

    def read_until(self, pattern: str) -> str:
        """Read the output up to a matching line; return the first group."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if match := re.search(pattern, line):
                return match[1]
        raise AssertionError(f"it ended before {pattern!r} was seen; it said:\n{self.output}")


@contextmanager
def started(
    command: str, program: Sequence[str] = (sys.executable, "server.py"), cwd: Path = ROOT, **settings: str
) -> Iterator[Program]:
    """Start `serve`, `sandbox` or `demo` on a free port; kill it at the end of the block."""
    settings.setdefault("port", "0")
    process = subprocess.Popen(
        [*program, command],
        cwd=cwd,
        env=environment(**settings) | {"PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield Program(process, UNTIL[command])
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
