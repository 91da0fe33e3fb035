"""The server process: start, stop, refused starts, and data after a kill."""

import asyncio
import json
import re
import signal
import socket
import sqlite3
import subprocess
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import LEADS
from server_process import run, started
from tornado.httpclient import AsyncHTTPClient

LEAD = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}


@pytest.fixture
def data_dir(tmp_path: Path) -> str:
    folder = str(tmp_path / "data")
    run(
        "building", "add", "--name", "Maple", "--token", "maple", "--agent-email", "a@b.test", data_dir=folder
    )
    return folder


def curl(url: str, body: Any) -> tuple[int, bytes]:
    done = subprocess.run(
        [
            "curl",
            "-sS",
            "-w",
            "%{http_code}",
            url,
            "-H",
            "Content-Type: application/json",
            "-d",
            json.dumps(body),
        ],
        capture_output=True,
        timeout=60,
        check=True,
    )
    return int(done.stdout[-3:]), done.stdout[:-3]


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_without_a_command_it_prints_help() -> None:
    done = run()
    assert done.returncode == 0
    for command in ("serve", "sandbox", "demo", "building", "token", "lead", "customer", "outbox", "config"):
        assert re.search(rf"^\s+{command}\b", done.stdout, re.MULTILINE)


@pytest.mark.database
def test_accepted_lead_survives_a_restart(data_dir: str) -> None:
    for expected in (1, 2):
        with started("serve", data_dir=data_dir) as server:
            assert curl(server.url + LEADS, LEAD) == (201, b'{"id": %d}' % expected)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) == 0
    done = run("lead", "list", "--json", data_dir=data_dir)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [2, 1]


@pytest.mark.sqlite("several servers may share a PostgreSQL")
def test_second_server_on_the_same_folder_is_refused(data_dir: str) -> None:
    with started("serve", data_dir=data_dir) as server:
        second = run("serve", data_dir=data_dir, port="0")
        assert second.returncode == 1
        assert f"another server (process {server.process.pid}) is running on {data_dir}" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        assert curl(server.url + LEADS, LEAD)[0] == 201


@pytest.mark.database
def test_port_in_use_is_reported_in_one_line(data_dir: str, tmp_path: Path) -> None:
    with started("serve", data_dir=data_dir) as server:
        port = server.url.rpartition(":")[2]
        second = run("serve", data_dir=str(tmp_path / "other"), port=port)
    assert second.returncode == 1
    assert f"port {port}" in second.stderr
    assert len(second.stderr.splitlines()) == 1


@pytest.mark.database
def test_sigterm_lets_requests_in_flight_finish(data_dir: str) -> None:
    body = json.dumps(LEAD).encode()
    head = f"POST {LEADS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def talk(url: str, process: "subprocess.Popen[str]") -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(head + body[:10])
        # An answer on another connection shows that the server has read what was sent before it.
        idle_writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await idle_reader.readuntil(b"}")
        process.send_signal(signal.SIGTERM)
        while True:  # until it no longer listens
            try:
                _, probe = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            except OSError:
                break
            probe.close()
            await asyncio.gather(probe.wait_closed(), return_exceptions=True)
        writer.write(body[10:])
        answer = await reader.read()
        for each in (writer, idle_writer):
            each.close()
            await asyncio.gather(each.wait_closed(), return_exceptions=True)
        return answer

    with started("serve", data_dir=data_dir) as server:
        answer = asyncio.run(talk(server.url, server.process))
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert answer.endswith(b'{"id": 1}')
        assert server.process.wait(30) == 0


@pytest.mark.database
def test_stop_delay_takes_leads_while_readyz_is_503(data_dir: str) -> None:
    with started("serve", data_dir=data_dir, stop_delay="600") as server:
        assert status_of(server.url + "/readyz") == 200
        server.process.send_signal(signal.SIGTERM)
        while (status := status_of(server.url + "/readyz")) == 200:
            pass
        assert status == 503 and status_of(server.url + "/livez") == 200
        assert curl(server.url + LEADS, LEAD) == (201, b'{"id": 1}')
        server.process.send_signal(signal.SIGTERM)  # a second signal ends it at once
        assert server.process.wait(30) == -signal.SIGTERM


@pytest.mark.database
async def test_acknowledged_leads_and_deliveries_survive_kill_9(data_dir: str, io_loop: Any) -> None:
    acknowledged: dict[int, str] = {}
    client = AsyncHTTPClient(force_instance=True, max_clients=16)

    async def post_until_it_dies(url: str, name: str) -> None:
        for number in range(5_000):
            email = f"{name}.{number}@renter.test"
            body = {
                "token": "maple",
                "tour_request": {"requestor_email": email, "listing_source": "june_homes"},
            }
            try:
                headers = {"Content-Type": "application/json"}
                answer = await client.fetch(
                    url + LEADS, method="POST", body=json.dumps(body), headers=headers
                )
            except Exception:
                return
            acknowledged[json.loads(answer.body)["id"]] = email

    for round_number in range(3):
        with started("serve", data_dir=data_dir, rate_limit="1000000/1") as server:
            posting = [
                asyncio.ensure_future(post_until_it_dies(server.url, f"r{round_number}c{n}"))
                for n in range(16)
            ]
            enough = len(acknowledged) + 150 + 37 * round_number
            while len(acknowledged) < enough:
                await asyncio.sleep(0.001)
            server.process.kill()
            await asyncio.gather(*posting)
    client.close()
    with started("serve", data_dir=data_dir):
        done = run("lead", "export", "--format", "json", data_dir=data_dir)
    leads = {lead["id"]: lead for lead in map(json.loads, done.stdout.splitlines())}
    assert len(acknowledged) >= 3 * 150
    for lead_id, email in acknowledged.items():
        assert leads[lead_id]["requestor_email"] == email
    for lead in leads.values():  # those that were stored but not acknowledged, too, are whole
        assert lead["deal"] is not None
        assert sorted(d["kind"] for d in lead["deliveries"]) == ["email", "june_homes"]


def damage_header(file: Path) -> None:
    file.write_bytes(b"garbage" * 1_000)


def damage_inside(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[4096:12_288] = b"\xaa" * 8_192
    file.write_bytes(content)


def make_foreign(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE recipes (name)")
        connection.commit()


def make_newer(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.commit()


@pytest.mark.sqlite("it is about the file")
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_header, "is corrupt"),
        (damage_inside, "is corrupt"),
        (make_foreign, "some other program's database"),
        (make_newer, "has schema 99, newer than this program's"),
    ],
)
def test_unusable_database_is_refused_and_left_unchanged(data_dir: str, damage: Any, said: str) -> None:
    file = Path(data_dir) / "leads.db"
    for name in ("-wal", "-shm"):
        file.with_name(file.name + name).unlink(missing_ok=True)
    damage(file)
    before = file.read_bytes()
    for command in (("serve",), ("lead", "list")):
        done = run(*command, data_dir=data_dir, port="0")
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert said in done.stderr
    assert file.read_bytes() == before


@pytest.mark.sqlite("it is about the file")
def test_wal_without_its_database_is_refused(data_dir: str) -> None:
    file = Path(data_dir) / "leads.db"
    file.rename(file.with_name("leads.db-wal"))
    done = run("serve", data_dir=data_dir, port="0")
    assert done.returncode == 1
    assert "is missing but its -wal file is there" in done.stderr
    assert not file.exists()


@pytest.mark.database
def test_data_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with started("serve", data_dir=str(folder)):
        assert folder.stat().st_mode & 0o077 == 0
        for file in folder.iterdir():
            assert file.stat().st_mode & 0o077 == 0, file


@pytest.mark.database
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("port", "http"),
        ("rate_limit", "0/300"),
        ("smtp_url", "mail.test"),
        ("june_homes_url", "http://partner.test/leads"),
        ("trusted_proxies", "proxy"),
        ("public_url", "leads.test"),
        ("smpt_url", "smtp://mail.test"),
    ],
)
def test_invalid_setting_is_reported_in_one_line(tmp_path: Path, setting: str, value: str) -> None:
    done = run("serve", data_dir=str(tmp_path / "data"), **{setting: value})
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert f"LEADS_{setting.upper()}" in done.stderr


def test_demo_accepts_its_curl_line_and_reports_both_deliveries() -> None:
    with started("demo") as demo:
        line = demo.read_until(r"^(curl .*)$")
        while not line.endswith("}}'"):
            line += "\n" + demo.read_until(r"^(.*)$")
        done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60, check=True)
        assert done.stdout == '{"id": 1}'
        told = demo.read_until(r"(partner|mail) ") + demo.read_until(r"(partner|mail) ")
        assert told in ("partnermail", "mailpartner")
        assert "New lead: Jane Doe" in demo.output
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(30) == 0
        assert "Traceback" not in demo.output


def test_demo_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with started("demo") as demo:
        assert list(tmp_path.iterdir())
        demo.process.send_signal(signal.SIGTERM)
        assert demo.process.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.sqlite("with PostgreSQL nothing is made in the folder")
def test_port_in_use_creates_no_database(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("serve", data_dir=str(tmp_path / "data"), port=str(taken.getsockname()[1]))
    assert done.returncode == 1 and "choose another with --host or --port" in done.stderr
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["server.lock"]


@pytest.mark.database
def test_server_without_a_building_logs_a_warning(tmp_path: Path, data_dir: str) -> None:
    told = "no building is registered, so nobody is told of leads; is it the right folder?"
    with started("serve", data_dir=str(tmp_path / "other")) as server:
        assert told in server.output
    with started("serve", data_dir=data_dir) as server:
        assert told not in server.output
