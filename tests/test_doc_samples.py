"""The README: its curl lines do what it says, and it leaves no setting and no command out."""

import re
import subprocess

from server_process import ROOT, run, started

from models import settings

README = (ROOT / "README.md").read_text(encoding="utf-8")
SAMPLE = re.compile(r"```sh\n(curl .*?)```\n```json\n(.*?)\n```", re.DOTALL)


def test_its_curl_lines_answer_as_it_says() -> None:
    samples = SAMPLE.findall(README)
    assert len(samples) == README.count("\ncurl ") >= 3
    with started("demo") as demo:
        for line, expected in samples:
            line = line.replace("http://127.0.0.1:8080", demo.url)
            done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60, check=True)
            assert done.stdout == expected, line


def test_every_setting_is_in_it() -> None:
    for name in settings.names():
        assert f"`LEADS_{name.upper()}`" in README


def test_every_command_is_in_it() -> None:
    assert "| `serve`, `sandbox`, `demo` |" in README and "| `doctor` |" in README
    for noun in ("building", "token", "lead", "customer", "outbox", "backup", "config"):
        verbs = re.findall(r"^    ([\w-]+)(?:  |$)", run(noun, "--help").stdout, re.MULTILINE)
        row = re.search(rf"\| `{noun} ([^`]+)`", README)
        assert row
        assert row[1].split("\\|") == verbs
