"""How the program connects to PostgreSQL: what it sets, what it leaves to libpq, and what it is told."""

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from postgresql import NOT_FOUND, PASSWORD, ROLE, Cluster, binaries
from test_postgresql_refusals import refusal, use

from models.storage import StorageError, rows
from models.storage.postgres import connection, refusals
from models.storage.postgres.connection import close_database, usable_connection, use_database
from models.storage.postgres.storage import command_storage

pytestmark = pytest.mark.skipif(binaries() is None, reason=NOT_FOUND)

DEFAULTS = {"connect_timeout": "4", "target_session_attrs": "read-write", "sslmode": "prefer"}
OTHERS = {"connect_timeout": "9", "target_session_attrs": "primary", "sslmode": "disable"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster that asks for passwords, with the database 'leads'."""
    with Cluster(auth="scram-sha-256") as cluster:
        use(cluster.create_database("leads"))
        yield cluster


@pytest.fixture
def service(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A service of libpq's that names the database, and all of OTHERS."""
    lines = [f"{name}={value}\n" for name, value in OTHERS.items()]
    address = f"host=127.0.0.1\nport={cluster.port}\ndbname=leads\nuser={ROLE}\npassword={PASSWORD}\n"
    (tmp_path / "services").write_text(f"[office]\n{address}{''.join(lines)}")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    return "office"


def used(url: str) -> dict[str, str]:
    """Connect as the program does; return what of DEFAULTS counted."""
    use_database(url, "leads test")
    try:
        options = {
            option.keyword.decode(): option.val for option in usable_connection().pgconn.info if option.val
        }
        return {name: options[name].decode() for name in DEFAULTS if name in options}
    finally:
        close_database()


# ---- what libpq is told


def test_defaults_are_the_program_s(cluster: Cluster) -> None:
    assert used(cluster.url("leads")) == DEFAULTS


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("PGCONNECT_TIMEOUT", "connect_timeout"),
        ("PGTARGETSESSIONATTRS", "target_session_attrs"),
        ("PGSSLMODE", "sslmode"),
    ],
)
def test_variable_of_libpq_is_not_overridden(
    cluster: Cluster, variable: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, OTHERS[name])
    assert used(cluster.url("leads")) == {**DEFAULTS, name: OTHERS[name]}


def test_service_of_libpq_is_not_overridden(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert used(f"postgresql://?service={service}") == OTHERS
    monkeypatch.setenv("PGSERVICE", service)
    assert used("postgresql://") == OTHERS


def test_service_without_a_timeout_gets_the_default(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "services"
    file.write_text(file.read_text().replace("connect_timeout=9\n", ""))
    assert used(f"postgresql://?service={service}")["connect_timeout"] == "4"
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")
    assert used(f"postgresql://?service={service}")["connect_timeout"] == "7"


def test_host_of_a_service_is_waited_for_as_it_says(service: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        (tmp_path / "services").write_text(f"[{service}]\nhost=127.0.0.1\nport={port}\nconnect_timeout=2\n")
        said = refusal(f"postgresql://u@/db?service={service}", StorageError)
    assert "connection timeout expired" in said


def test_url_comes_before_variables_and_service(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")
    query = "connect_timeout=8&target_session_attrs=any&sslmode=allow"
    of_url = {"connect_timeout": "8", "target_session_attrs": "any", "sslmode": "allow"}
    assert used(f"postgresql://?service={service}&{query}") == of_url


def test_certificates_of_the_system_need_no_sslmode(cluster: Cluster) -> None:
    said = refusal(cluster.url("leads") + "?sslrootcert=system")
    assert "server does not support SSL" in said


# ---- what the session is told


def test_timeouts_of_the_role_cut_no_write(cluster: Cluster) -> None:
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    for name in names:
        cluster.query(f"ALTER ROLE {ROLE} SET {name} = '30s'")
    try:
        with command_storage(cluster.url("leads")) as storage:
            sql = f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}"
            found = storage.write(lambda: rows.database.execute_sql(sql).fetchone())
            assert found == ("0", "5s", "3s")
    finally:
        cluster.query(f"ALTER ROLE {ROLE} RESET ALL")


def test_read_only_database_may_be_writable_later(cluster: Cluster) -> None:
    cluster.query("ALTER DATABASE leads SET default_transaction_read_only = on")
    try:
        said = refusal(cluster.url("leads") + "?target_session_attrs=any", StorageError)
        assert "is read-only, and can't be written to; name the primary in LEADS_DATABASE_URL" in said
    finally:
        cluster.query("ALTER DATABASE leads RESET default_transaction_read_only")


def test_too_old_a_version_is_refused_before_any_statement(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args: object, **options: object) -> None:
        raise AssertionError("a statement was run")

    monkeypatch.setattr(connection.Connection, "execute", run)
    monkeypatch.setattr(psycopg.ConnectionInfo, "server_version", 130_021)
    assert "PostgreSQL 13 is too old; use 14 or later" in refusal(cluster.url("leads"))


# ---- what a server refuses


class Untraced:
    """A connection of a libpq that can't trace, as on other systems than Linux."""

    @staticmethod
    def connect_start(conninfo: bytes) -> "Untraced":
        return Untraced()

    def trace(self, descriptor: int) -> None:
        raise psycopg.NotSupportedError

    def finish(self) -> None:
        pass


def test_wrong_password_is_told_without_a_trace(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "PGconn", Untraced)
    said = refusal(cluster.url("leads").replace(PASSWORD, "hunter2"))
    assert "password authentication failed" in said and "correct LEADS_DATABASE_URL" in said
    assert "does not exist" in refusal(cluster.url("gone"))


@contextmanager
def refusing(state: str, words: str) -> Iterator[str]:
    """A server that refuses each connection so, as PgBouncer does; gives its URL."""
    fields = f"SFATAL\0VFATAL\0C{state}\0M{words}\0\0".encode()

    class Refusal(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            (length,) = struct.unpack("!i", self.rfile.read(4))
            self.rfile.read(length - 4)
            self.wfile.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)

    with socketserver.TCPServer(("127.0.0.1", 0), Refusal) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"postgresql://u:unter@127.0.0.1:{server.server_address[1]}/db?sslmode=disable"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("08P01", "server login has been failing, try again later (server_login_retry)"),
        ("08P01", "no more connections allowed (max_client_conn)"),
        ("08P01", "query_wait_timeout"),
        ("57P03", "the database system is starting up"),
        ("53300", "sorry, too many clients already"),
        ("XX000", "the tenant is being moved"),
    ],
)
def test_refusal_that_passes_is_waited_for(state: str, words: str) -> None:
    with refusing(state, words) as url:
        assert words in refusal(url, StorageError)


@pytest.mark.parametrize(
    "words",
    [
        "unsupported startup parameter: options",
        "unsupported startup parameter in options: search_path",
        "no such database: db",
        "no such user",
    ],
)
def test_refusal_by_a_pooler_s_settings_is_no_wait(words: str) -> None:
    with refusing("08P01", words) as url:
        assert "PgBouncer serves it with pool_mode = session" in refusal(url)
