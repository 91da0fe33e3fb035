"""The commands that tests run as forks are as the program's own processes."""

import subprocess
import sys
from pathlib import Path

import pytest
from program_forks import run_forked
from server_process import ROOT, environment


@pytest.mark.parametrize("command", ["--version", "config show --json", "nonsense", "lead show", "lead list"])
def test_fork_says_what_the_program_says(command: str, tmp_path: Path) -> None:
    arguments, variables = command.split(), environment() | {"LEADS_DATA_DIR": "nowhere", "TZ": "Asia/Tokyo"}
    program = [sys.executable, str(ROOT / "server.py"), *arguments]
    real = subprocess.run(program, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    forked = run_forked(arguments, variables, tmp_path)
    assert (forked.returncode, forked.stdout) == (real.returncode, real.stdout)
    assert forked.stderr == real.stderr


def test_fork_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_forked(["sandbox", "--port", "0"], environment(), tmp_path, timeout=0.5)
