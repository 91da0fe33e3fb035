"""Tutorial: every command works, one after the other, and prints what the text says."""

import shutil
import socket
import time
from pathlib import Path

import pytest
from doc_blocks import Document
from server_process import ROOT


def test_its_commands_do_what_it_says(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tutorial = Document("docs/tutorial.md")
    tutorial.run(
        tmp_path,
        {"8080": str(port), "server.py": str(ROOT / "server.py")},
        ending="echo -n $url > url",
    )
    for sample in tutorial.samples:
        assert not sample.expected or sample.printed == sample.expected
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
    tutorial = Document("docs/tutorial.md")
    assert len(tutorial.samples) >= 9 and len(tutorial.files) == 2
    assert sum(1 for sample in tutorial.samples if sample.expected) >= 9
