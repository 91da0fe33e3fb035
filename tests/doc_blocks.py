"""Code blocks of a Markdown file, and a run of its shell blocks, one after the other."""

import re
import subprocess
import sys
from pathlib import Path

from server_process import ROOT, environment

BLOCK = re.compile(r"^```(\w*) ?([\w.]*)\n(.*?)^```\n(?:```(?:json)?\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"(?:\$LEADS/)?\.venv/bin/python")


class Sample:
    """A shell block of a document, the output that the document promises, if any, and what was printed."""

    def __init__(self, text: str, expected: str) -> None:
        self.text = text
        self.expected = expected.strip()
        self.printed = ""

    @property
    def keeps_its_promise(self) -> bool:
        """True if the promised output was printed. In it `…` stands for text, on a line alone for lines."""
        pattern = re.escape(self.expected)
        pattern = re.sub(r"^…$", "(?s:.*)", pattern, flags=re.MULTILINE).replace("…", ".*")
        return not self.expected or re.fullmatch(pattern, self.printed) is not None


class Document:
    """A Markdown file, with its shell blocks and the files that its other blocks name."""

    def __init__(self, path: str) -> None:
        self.text = (ROOT / path).read_text(encoding="utf-8")
        self.samples: list[Sample] = []
        self.files: dict[str, str] = {}
        for language, file, text, expected in BLOCK.findall(self.text):
            if language == "sh":
                self.samples.append(Sample(text, expected))
            elif file:
                self.files[file] = text

    def run(self, folder: Path, replacements: dict[str, str], ending: str = "", **settings: str) -> None:
        """Run the shell blocks in this folder, in one shell, until one fails; note what each printed."""
        for name, text in self.files.items():
            (folder / name).write_text(text)
        script = ["set -euo pipefail", f"cd {folder}", f"export LEADS={ROOT}"]
        for sample in self.samples:
            text = PYTHON.sub(sys.executable, sample.text)
            for old, new in replacements.items():
                text = text.replace(old, new)
            script += [text, "printf '\\0'"]
        done = subprocess.run(
            ["bash", "-c", "\n".join([*script, ending])],
            env=environment(**settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        printed = done.stdout.split("\0")
        assert len(printed) == len(self.samples) + 1
        for sample, text in zip(self.samples, printed, strict=False):
            sample.printed = text.strip()
