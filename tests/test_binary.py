"""The one-file binary: its size, and its commands without Python or this checkout."""

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from server_process import ROOT, environment, started

pytestmark = pytest.mark.sqlite("the one-file program is tested with the database that it has by default")

MEGABYTE = 1_000_000
LEAD = {"token": "oak", "tour_request": {"requestor_email": "jane@renter.test", "slot": "2026-12-01T10:00"}}


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The binary, built from this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        ["make", "binary", f"DIST={folder}"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "leads"


@pytest.fixture
def no_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has neither Python nor time zones of its own."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("PYTHONTZPATH", "/nowhere")


def run(binary: Path, *arguments: str, data_dir: Path) -> str:
    done = subprocess.run(
        [binary, *arguments],
        env=environment(data_dir=str(data_dir)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def post(url: str, lead: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/api/v1/website_leads", json.dumps(lead).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_binary_is_under_25_mb(binary: Path) -> None:
    assert binary.stat().st_size < 25 * MEGABYTE


@pytest.mark.usefixtures("no_python")
def test_binary_demo_accepts_its_curl_line_and_reports_deliveries(binary: Path, tmp_path: Path) -> None:
    with started("demo", [str(binary)], tmp_path) as demo:
        line = demo.read_until(r"^(curl .*)$")
        while not line.endswith("}}'"):
            line += "\n" + demo.read_until(r"^(.*)$")
        done = subprocess.run(line, shell=True, env={"PATH": os.defpath}, capture_output=True, check=True)
        assert done.stdout == b'{"id": 1}'
        told = demo.read_until(r"(partner|mail) ") + demo.read_until(r"(partner|mail) ")
        assert told in ("partnermail", "mailpartner")
        for path in (
            "/sandbox",
            "/sandbox/static/sandbox.js",
            "/docs",
            "/static/lead-form.js",
            "/openapi.json",
            "/readyz",
        ):
            with urllib.request.urlopen(demo.url + path, timeout=60) as answer:
                assert answer.status == 200
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(30) == 0


@pytest.mark.usefixtures("no_python")
def test_binary_keeps_accepted_leads_after_a_restart(binary: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    building = ("--name", "The Oak", "--token", "oak", "--time-zone", "America/New_York")
    run(binary, "building", "add", *building, data_dir=data_dir)
    for taken in (1, 2):
        with started("serve", [str(binary)], tmp_path, data_dir=str(data_dir)) as server:
            assert post(server.url, LEAD) == {"id": taken}
            server.process.terminate()
            assert server.process.wait(30) == 0
        leads = run(binary, "lead", "list", "--json", data_dir=data_dir).splitlines()
        assert [json.loads(lead)["slot"] for lead in leads] == ["2026-12-01T15:00:00.000000Z"] * taken


@pytest.mark.usefixtures("no_python")
@pytest.mark.parametrize(
    "command",
    ["serve", "sandbox", "building", "token", "lead", "customer", "outbox", "backup", "openapi", "doctor"],
)
def test_binary_has_every_command(binary: Path, tmp_path: Path, command: str) -> None:
    assert run(binary, command, "--help", data_dir=tmp_path).startswith(f"usage: leads {command}")


@pytest.mark.usefixtures("no_python")
def test_binary_creates_a_backup(binary: Path, tmp_path: Path) -> None:
    run(binary, "building", "add", "--name", "The Oak", data_dir=tmp_path)
    assert run(binary, "backup", "create", data_dir=tmp_path)
