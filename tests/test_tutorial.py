"""The tutorial: every command of it works, one after the other, and prints what it says."""

import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from server_process import ROOT, environment

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
PYTHON = re.compile(r"(?:\$LEADS/)?\.venv/bin/python")
BLOCK = re.compile(r"^```(\w*) ?([\w.]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks() -> list[tuple[str, str, str]]:
    """The language, file name and text of each block."""
    return BLOCK.findall(TUTORIAL)


def test_its_commands_do_what_it_says(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = ["set -euo pipefail", f"cd {ROOT}", f"export LEADS={ROOT}"]
    expected: list[str | None] = []
    for language, name, text in blocks():
        if language == "sh":
            text = PYTHON.sub(sys.executable, text).replace("8080", str(port))
            script += [text.replace(" test_leads.py", f" {tmp_path}/test_leads.py"), "printf '\\0'"]
            expected.append(None)
        elif language == "python":
            (tmp_path / name).write_text(text)
        else:
            expected[-1] = text.strip()
    done = subprocess.run(
        ["bash", "-c", "\n".join([*script, f"echo -n $url > {tmp_path}/url"])],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for printed, said in zip(done.stdout.split("\0"), expected, strict=False):
        assert said is None or printed.strip() == said
    assert done.stdout.count("\0") == len(expected)
    for sandbox in (f"http://127.0.0.1:{port}", (tmp_path / "url").read_text()):
        wait_until_gone(sandbox)  # the tutorial leaves none behind


def wait_until_gone(url: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.05)


def test_it_has_a_command_for_each_thing_it_promises() -> None:
    languages = [language for language, _, _ in blocks()]
    assert languages.count("sh") >= 9 and languages.count("python") == 2
