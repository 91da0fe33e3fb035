"""The reference: its samples do what they say, in every language that is on this machine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ServerHarness
from leads_sandbox import Sandbox

from handlers.api.validation import SCHEMA, TOUR_REQUEST
from handlers.docs import NO_TOKEN, SAMPLES, filled

PROGRAMS = {
    "curl.sh": ["sh"],
    "python.py": [sys.executable],
    "node.mjs": ["node"],
    "php.php": ["php"],
    "ruby.rb": ["ruby"],
}
SAMPLE = {sample.file: sample for sample in SAMPLES}


@pytest.mark.parametrize("file", PROGRAMS)
def test_a_sample_sends_a_lead(leads_sandbox: Sandbox, tmp_path: Path, file: str) -> None:
    program = PROGRAMS[file]
    if shutil.which(program[0]) is None:
        pytest.skip(f"there is no {program[0]} on this machine")
    text = filled(SAMPLE[file], leads_sandbox.url, leads_sandbox.token)
    (tmp_path / file).write_text(text)
    done = subprocess.run(
        [*program, str(tmp_path / file)], capture_output=True, text=True, timeout=60, check=True
    )
    (lead,) = leads_sandbox.leads.all()
    assert (lead["requestor_email"], lead["message"]) == ("jane@example.com", "Is 4B still free?")
    assert re.fullmatch(rf'lead {lead["id"]}\n|\{{"id": {lead["id"]}\}}', done.stdout)
    assert leads_sandbox.diagnosis() == {}


def test_every_sample_is_run_by_a_test() -> None:
    assert {*PROGRAMS, "fetch.js", "form.html"} == set(SAMPLE)


async def test_reference_shows_the_server_address_without_run_buttons(harness: ServerHarness) -> None:
    response = await harness.request("GET", "/docs")
    text = response.body.decode()
    assert response.code == 200 and response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert f"{harness.url}/api/v1/website_leads" in text and NO_TOKEN in text
    assert "127.0.0.1:8080" not in text and 'class="run"' not in text
    for name in (*(name for name in SCHEMA if name != "tour_request"), *TOUR_REQUEST):
        assert f"{name}</code>" in text
    response = await harness.request("GET", "/docs", Host='"><script>')
    assert "<script>" not in response.body.decode()
