"""Days on which PostgreSQL can't be used: leads are refused, and all goes on when it is mended."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from postgresql import NOT_FOUND, PASSWORD, ROLE, Cluster, binaries
from server_process import Program, run, started

from models.storage.postgres.migrations.migrate import LOCK as MIGRATIONS

pytestmark = pytest.mark.skipif(binaries() is None, reason=NOT_FOUND)

LEAD = b'{"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}'
FAST = "100000/1"  # a rate limit that no test meets


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(auth="scram-sha-256") as cluster:
        yield cluster


class Answer:
    """The answer to a request."""

    def __init__(self, url: str, body: bytes | None = None) -> None:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=50) as response:
                self.status, self.headers, self.body = response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            self.status, self.headers, self.body = error.code, error.headers, error.read()


def send(server: Program) -> Answer:
    return Answer(f"{server.url}/api/v1/website_leads", LEAD)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_ready(server: Program) -> bool:
    return bool(Answer(f"{server.url}/readyz").status == 200)


def said(server: Program) -> list[str]:
    """End the server; return the lines of its log."""
    server.process.terminate()
    assert server.process.stdout is not None
    return (server.output + server.process.stdout.read()).splitlines()


def assert_refused(server: Program, leads: int = 20) -> None:
    for _ in range(leads):
        answer = send(server)
        assert answer.status == 503 and answer.headers["Retry-After"] == "5"
        assert json.loads(answer.body) == {
            "error": "the server can't store leads now; the lead was not stored"
        }
    until(lambda: not is_ready(server))
    assert Answer(f"{server.url}/readyz").headers["Retry-After"] == "5"
    assert Answer(f"{server.url}/livez").status == 200


def test_server_waits_for_a_database_that_is_down(tmp_path: Path) -> None:
    with Cluster(auth="scram-sha-256") as cluster:
        url = cluster.create_database("leads")
        cluster.stop()
        with started("serve", database_url=url, data_dir=str(tmp_path), rate_limit=FAST) as server:
            assert_refused(server)
            done = run("building", "list", database_url=url, data_dir=str(tmp_path))
            assert done.returncode == 1
            [line] = done.stderr.splitlines()
            assert "Connection refused; see that it runs and can be reached from here" in line
            cluster.start()
            until(lambda: is_ready(server))
            assert send(server).status == 201
            lines = said(server)
        # While it starts, PostgreSQL itself refuses connections: that is another reason.
        assert sum("Connection refused" in line for line in lines) == 1
        assert not any("storage failed" in line for line in lines)
        assert any("the database can be used" in line for line in lines)
        assert PASSWORD not in str(lines)


def test_server_says_in_which_database_its_leads_are(cluster: Cluster, tmp_path: Path) -> None:
    url = cluster.create_database("leads") + "?sslpassword=hunter2"
    try:
        with started("serve", database_url=url, data_dir=str(tmp_path)) as server:
            masked = url.replace(PASSWORD, "***").replace("hunter2", "***")
            assert f"Website leads at {server.url} (data in {masked})\n" in server.output
            assert not any(secret in line for line in said(server) for secret in (PASSWORD, "hunter2"))
    finally:
        cluster.drop_database("leads")


def test_leads_are_refused_until_the_server_s_secret_is_that_of_the_others(tmp_path: Path) -> None:
    with Cluster(auth="scram-sha-256") as cluster:
        url = cluster.create_database("leads")
        with started("serve", database_url=url, data_dir=str(tmp_path / "one"), secret="a" * 32) as server:
            assert send(server).status == 201
        cluster.stop()
        with started(
            "serve", database_url=url, data_dir=str(tmp_path / "two"), rate_limit=FAST, secret="b" * 32
        ) as server:
            assert_refused(server, 1)
            cluster.start()
            server.read_until("(the servers on this database have another secret)")
            assert_refused(server)


def test_server_that_waits_for_a_migration_elsewhere_can_be_stopped(cluster: Cluster, tmp_path: Path) -> None:
    url = cluster.create_database("leads")
    short = "connection._PREPARE = connection._PREPARE.replace(\"'5s'\", \"'50ms'\")"
    program = with_patch("models.storage.postgres", "connection", short)
    try:
        with psycopg.connect(url) as other:
            other.execute("SELECT pg_advisory_xact_lock(%s)", [MIGRATIONS])
            with started("serve", program, database_url=url, data_dir=str(tmp_path)) as server:
                assert_refused(server, 1)
                lines = said(server)
                assert server.process.wait() == 0
        assert sum("another server makes or upgrades the tables" in line for line in lines) == 1
    finally:
        cluster.drop_database("leads")


def with_patch(package: str, module: str, statement: str) -> list[str]:
    """Return the command line of the program with a statement about one of its modules run before it."""
    code = f"from {package} import {module}; {statement}; "
    code += "import runpy; runpy.run_path('server.py', run_name='__main__')"
    return [sys.executable, "-c", code]


# Each reason is logged once, however long the test takes.
REASONS_ONCE = with_patch("models.storage", "failure_log", "failure_log.REPEAT_SECONDS = 1e9")


DAYS = {
    "password changed": (f"ALTER ROLE {ROLE} PASSWORD 'other'", f"ALTER ROLE {ROLE} PASSWORD '{PASSWORD}'"),
    "no login": (f"ALTER ROLE {ROLE} NOLOGIN", f"ALTER ROLE {ROLE} LOGIN"),
    "no connections": (f"ALTER ROLE {ROLE} CONNECTION LIMIT 0", f"ALTER ROLE {ROLE} CONNECTION LIMIT -1"),
    "renamed": ("ALTER DATABASE leads RENAME TO moved", "ALTER DATABASE moved RENAME TO leads"),
    "read only": (
        "ALTER DATABASE leads SET default_transaction_read_only = on",
        "ALTER DATABASE leads RESET default_transaction_read_only",
    ),
    "commits that may be lost": (
        f"ALTER ROLE {ROLE} SET synchronous_commit = off",
        f"ALTER ROLE {ROLE} RESET synchronous_commit",
    ),
}


@pytest.mark.parametrize("day", DAYS)
def test_server_goes_on_when_the_connection_is_mended(cluster: Cluster, tmp_path: Path, day: str) -> None:
    broken, mended = DAYS[day]
    url = cluster.create_database("leads")

    def change(statement: str) -> None:
        """Change it while no connection is there, which then are made anew."""
        cluster.query("ALTER ROLE leads CONNECTION LIMIT 0")
        cluster.query("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'leads'")
        cluster.query("ALTER ROLE leads CONNECTION LIMIT -1")
        cluster.query(statement)
        cluster.query("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'leads'")

    try:
        with started(
            "serve", REASONS_ONCE, database_url=url, data_dir=str(tmp_path), rate_limit=FAST
        ) as server:
            assert send(server).status == 201
            change(broken)
            send(server)  # may still find a connection that breaks
            assert_refused(server)
            cluster.query(mended)
            until(lambda: is_ready(server))
            assert send(server).status == 201
            lines = said(server)
        reasons = [re.search("reason=(.*?) writes=", line) for line in lines if "storage failed" in line]
        assert reasons and None not in reasons
        assert len({reason[1] for reason in reasons if reason}) == len(reasons)
        assert PASSWORD not in str(lines)
    finally:
        cluster.drop_database("leads")


@pytest.mark.parametrize("table", ["lead", "delivery", "storage_check"])
def test_server_goes_on_when_a_right_is_given_back(cluster: Cluster, tmp_path: Path, table: str) -> None:
    url = cluster.create_database("leads")
    try:
        with started("serve", database_url=url, data_dir=str(tmp_path), rate_limit=FAST) as server:
            assert send(server).status == 201
            cluster.query(f"REVOKE ALL ON {table} FROM leads", database="leads")
            if table == "lead":
                assert_refused(server)
            until(lambda: not is_ready(server))
            cluster.query(f"GRANT ALL ON {table} TO leads", database="leads")
            until(lambda: is_ready(server))
            assert send(server).status == 201
    finally:
        cluster.drop_database("leads")


@pytest.fixture
def small_disk(cluster: Cluster) -> Iterator[Path]:
    """A disk of 60 MB with the tablespace 'small'."""
    folder = Path(tempfile.mkdtemp(prefix="disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        folder.rmdir()
        pytest.skip("this user may not mount a disk")
    try:
        owner = cluster.data.stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        cluster.query(f"CREATE TABLESPACE small OWNER {ROLE} LOCATION '{folder}'")
        yield folder
    finally:
        cluster.drop_database("leads")
        cluster.query("DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def test_server_goes_on_when_the_database_s_disk_has_room_again(
    cluster: Cluster, small_disk: Path, tmp_path: Path
) -> None:
    cluster.query(
        f"CREATE DATABASE leads OWNER {ROLE} TEMPLATE template0 TABLESPACE small STRATEGY FILE_COPY"
    )
    url, ballast = cluster.url("leads"), small_disk / "ballast"
    with started("serve", database_url=url, data_dir=str(tmp_path / "data"), rate_limit=FAST) as server:
        stored = 1
        assert send(server).status == 201
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        while send(server).status == 201:
            stored += 1
        until(lambda: not is_ready(server))
        ballast.unlink()
        until(lambda: is_ready(server))
        assert send(server).status == 201
        lines = said(server)
    assert any("No space left on device" in line for line in lines)
    assert cluster.query("SELECT count(*) FROM lead", database="leads")[0][0] >= stored + 1
