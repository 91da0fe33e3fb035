"""README and guides: each shell block with an expected output prints that output."""

import shutil
import sys
from pathlib import Path

import pytest
from doc_blocks import Document
from server_process import ROOT, started

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")

URL = "http://127.0.0.1:8080"
SERVER = str(ROOT / "server.py")


@pytest.mark.parametrize("file, at_least", [("README.md", 1), ("docs/integrating.md", 3)])
def test_the_samples_answer_as_the_document_says(tmp_path: Path, file: str, at_least: int) -> None:
    document = Document(file)
    assert len(document.samples) >= at_least
    assert document.text.count("curl -sS ") == sum(s.text.count("curl -sS ") for s in document.samples)
    with started("demo") as demo:
        document.run(tmp_path, {URL: demo.url})
    for sample in document.samples:
        assert sample.expected, f"nothing is said of what this prints:\n{sample.text}"
        assert sample.keeps_its_promise, f"{sample.text}\nprinted {sample.printed}"


def test_the_operators_commands_print_what_the_guide_says(tmp_path: Path) -> None:
    document = Document("docs/operating.md")
    for name, text in document.files.items():
        (tmp_path / name).write_text(text)
    with started("serve", [sys.executable, SERVER], tmp_path, config="leads.toml") as server:
        document.run(tmp_path, {URL: server.url, "server.py": SERVER}, config="leads.toml")
    assert len(document.samples) >= 5
    for sample in document.samples:
        assert sample.keeps_its_promise, f"{sample.text}\nprinted {sample.printed}"
