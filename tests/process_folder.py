"""A temporary folder and the servers that run in it. Both end with the process that made the folder.

A process of this module (the watcher) waits for that end, so that it comes even after SIGKILL.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

QUIT_SECONDS = 6  # that the programs have to end themselves


class ProcessFolder:
    """A new folder in the system's temporary folder.

    programs: the file or folder of the programs that run here. No other program is ever signalled.
    quit_signal: tells such a program to end at once.
    user: runs the programs, and owns the folder; by default the user of this process.
    """

    def __init__(
        self,
        prefix: str,
        programs: Path,
        quit_signal: signal.Signals = signal.SIGTERM,
        user: str | None = None,
    ) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._programs, self._user = programs, user
        if user is not None:
            shutil.chown(self.path, user)
        command = [sys.executable, "-IS", __file__, str(self.path), str(programs), str(quit_signal.value)]
        self._watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, cwd="/")

    def start(
        self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program in the folder. Its output goes to `log`."""
        with (self.path / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C ends the tests first
                user=self._user,
                group=None if self._user is None else pwd.getpwnam(self._user).pw_gid,
                extra_groups=None if self._user is None else [],
            )

    @property
    def log(self) -> str:
        """The output of the programs so far."""
        return (self.path / "log").read_text(errors="replace")

    def processes(self) -> list[int]:
        """Return the ids of the programs' processes that run in the folder."""
        return processes_in(self.path, self._programs)

    def kill(self) -> None:
        """End all processes by SIGKILL, and wait until they are gone."""
        kill_all(self.path, self._programs)

    def close(self) -> None:
        """End all processes, and remove the folder."""
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher.wait()


def processes_in(folder: Path, programs: Path) -> list[int]:
    """Return the ids of the processes of these programs that run in this folder.

    Their working folder is in it, or their command names it: HAProxy and nginx may change the one, PostgreSQL
    changes the other.
    """
    found = []
    for process in [Path("/proc", name) for name in os.listdir("/proc") if name.isdigit()]:
        with suppress(OSError):  # the process has ended, or is another user's
            if (process / "exe").readlink().is_relative_to(programs) and (
                (process / "cwd").readlink().is_relative_to(folder)
                or os.fsencode(folder) in (process / "cmdline").read_bytes()
            ):
                found.append(int(process.name))
    return sorted(found)


def signal_all(processes: Sequence[int], number: signal.Signals) -> None:
    """Send a signal to each of these processes that still runs."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def kill_all(folder: Path, programs: Path) -> None:
    """End the processes in the folder by SIGKILL, and wait until they are gone."""
    while processes := processes_in(folder, programs):
        signal_all(processes, signal.SIGKILL)
        time.sleep(0.005)


def _clean_up(folder: Path, programs: Path, quit_signal: signal.Signals) -> None:
    for number in (signal.SIGCONT, quit_signal):
        signal_all(processes_in(folder, programs), number)
    deadline = time.monotonic() + QUIT_SECONDS
    while processes_in(folder, programs) and time.monotonic() < deadline:
        time.sleep(0.01)
    kill_all(folder, programs)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.read()  # until the process that made the folder has closed it, or has ended
    _clean_up(Path(sys.argv[1]), Path(sys.argv[2]), signal.Signals(int(sys.argv[3])))
