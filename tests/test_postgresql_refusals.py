"""PostgreSQL refused: one line that says what is wrong and what to do, and nothing is changed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import trustme
from postgresql import NOT_FOUND, PASSWORD, ROLE, Cluster, binaries
from psycopg.conninfo import conninfo_to_dict
from server_process import ROOT, environment, run

from models.database import command_storage
from models.database_url import PARAMETERS, SECRETS, masked_database_url, with_database, without_password
from models.settings import SettingError, load
from models.storage import DatabaseUnusable, StorageError

pytestmark = pytest.mark.skipif(binaries() is None, reason=NOT_FOUND)

ENCODE = "in its user, password and parameters write % as %25, @ as %40"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster that asks for passwords, with the database 'leads' of this program."""
    with Cluster(auth="scram-sha-256", max_connections="15") as cluster:
        with command_storage(load({"database_url": cluster.create_database("leads")}, environment={})):
            pass
        yield cluster


def use(url: str) -> None:
    """Open the database as a command does."""
    with command_storage(load({"database_url": url}, environment={})) as storage:
        storage.read(lambda: None)


def refusal(url: str, kind: type[Exception] = DatabaseUnusable) -> str:
    """Return the line with which the database is refused."""
    with pytest.raises(kind) as caught:
        use(url)
    said = str(caught.value)
    assert said.isprintable() and PASSWORD not in said and "unter" not in said, said
    return said


# ---- the URL

WRONG_FORMS = {
    "mysql://u:hunter2@h/db": "does not begin with postgresql://",
    "hunter2": "does not begin with postgresql://",
    "host=db password=hunter2": "does not begin with postgresql://",
    "jdbc:postgresql://u:hunter2@h/db": "does not begin with postgresql://",
    "postgresql://u:hun@ter2@h/db": ENCODE,
    "postgresql://u:hun#ter2@h/db": ENCODE,
    "postgresql://u:hun/ter2@h/db": ENCODE,
    "postgresql://u:hun%zzter2@h/db": ENCODE,
    "postgresql://u:hunter2%@h/db": ENCODE,
    "postgresql://u:hun%00ter2@h/db": ENCODE,
    "postgresql://u:hun ter2@h/db": ENCODE,
    "postgresql://u:hun\0ter2@h/db": ENCODE,
    "postgresql://u:hun\udcffter2@h/db": ENCODE,
    "postgresql://u@h/db?password=hun@ter2": ENCODE,
    "postgresql://u@h/db?password=hun#ter2": ENCODE,
    "postgresql://u@h/db?password=hun&ter2": ENCODE,
    "postgresql://u@h/db?password=hun&ter2=x": ENCODE,
    "postgresql://u@h/db?password=hun=ter2": ENCODE,
    "postgresql://u@h/db?password=hun%zzter2": ENCODE,
    "postgresql://u@h/db?p%61ssword=hunter2": "no parameter 'p%61ssword'",
    "postgresql://u:hunter2": "its port is no number from 1 to 65535",
    "postgresql://u:hunter2/db": "its port is no number from 1 to 65535",
    "postgresql://u:hunter2@h:abc/db": "its port is no number from 1 to 65535",
    "postgresql://u:hunter2@h:0/db": "its port is no number from 1 to 65535",
    "postgresql://u:hunter2@h:65536/db": "its port is no number from 1 to 65535",
    "postgresql://u:hunter2@h:-1/db": "its port is no number from 1 to 65535",
    "postgresql://u:hunter2@h:5432,i:x/db": "its port is no number from 1 to 65535",
    "postgresql://u:hunter2@h/db?port=99999": "its port is no number from 1 to 65535",
    "postgresql://u:hunter2@[::1/db": "write IPv6 like [::1]",
    "postgresql://u:hunter2@[::1]x/db": "write IPv6 like [::1]",
    "postgresql://u:hunter2@::1/db": "its port is no number",
    "postgresql://u:hunter2@h/db?sslmod=require": "no parameter 'sslmod'; did you mean sslmode?",
    "postgresql://u:hunter2@h/db?schema=public": "libpq has no parameter 'schema'",
    "postgresql://u:hunter2@h/db?ssl=true": "no parameter 'ssl'; write sslmode=require, or verify-full",
    "postgresql://u@h/db?passwrd=hunter2": "no parameter 'passwrd'; did you mean password?",
}


@pytest.mark.parametrize(("url", "why"), WRONG_FORMS.items())
def test_url_of_a_wrong_form_is_refused_without_its_password(url: str, why: str) -> None:
    said = refusal(url, SettingError)
    assert why in said and "it takes a URL like postgresql://" in said


def test_parameters_are_those_of_libpq() -> None:
    internal = {"replication"}  # a connection for replication takes no queries
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    assert known - internal - {*PARAMETERS, *SECRETS} == set()
    assert {
        option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults() if option.dispchar == b"*"
    } < set(SECRETS)


@pytest.mark.parametrize(
    ("url", "masked", "bare"),
    [
        ("postgresql://u:p:?x%40@h,i:1/db", "postgresql://u:***@h,i:1/db", "postgresql://u@h,i:1/db"),
        (
            "postgresql://h/db?password=p&sslmode=require",
            "postgresql://h/db?password=***&sslmode=require",
            "postgresql://h/db?sslmode=require",
        ),
        ("postgres://u@h?sslpassword=p", "postgres://u@h?sslpassword=***", "postgres://u@h"),
        (
            "postgresql://u:p@/db?host=/run/p",
            "postgresql://u:***@/db?host=/run/p",
            "postgresql://u@/db?host=/run/p",
        ),
        ("postgresql://", "postgresql://", "postgresql://"),
    ],
)
def test_url_is_shown_without_its_passwords(url: str, masked: str, bare: str) -> None:
    assert load({"database_url": url}, environment={}).database_url == url
    assert masked_database_url(url) == masked
    assert without_password(url) == bare


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://", "postgresql:///new"),
        ("postgresql://h", "postgresql://h/new"),
        ("postgresql://h/", "postgresql://h/new"),
        ("postgres://u:p@h/db", "postgres://u:p@h/new"),
        ("postgresql://u@h:1,i:2/db?sslmode=require", "postgresql://u@h:1,i:2/new?sslmode=require"),
        ("postgresql://u:p@[::1]:5432/db", "postgresql://u:p@[::1]:5432/new"),
        ("postgresql://h?dbname=db", "postgresql://h/new"),
        ("postgresql:///?host=/run/p&dbname=db&user=u", "postgresql:///new?host=/run/p&user=u"),
        ("postgresql://u@?service=office", "postgresql://u@/new?service=office"),
    ],
)
def test_url_of_another_database_keeps_the_rest(url: str, named: str) -> None:
    assert with_database(url, "new") == named
    before, after = conninfo_to_dict(url), conninfo_to_dict(named)
    assert {**before, "dbname": "new"} == after


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("?sslmode=maybe", 'invalid sslmode value: "maybe"; correct LEADS_DATABASE_URL'),
        ("?target_session_attrs=primery", "invalid target_session_attrs value"),
        ("?target_session_attrs=read-only", "take target_session_attrs=read-write"),
        ("?target_session_attrs=standby", "take target_session_attrs=read-write"),
        ("?connect_timeout=soon", "bad value for connect_timeout"),
        ("?keepalives_idle=soon", 'invalid integer value "soon"'),
        ("?service=nosuch", 'definition of service "nosuch" not found'),
        ("?channel_binding=require", "channel binding required, but SSL not in use"),
        ("?sslmode=require", "server does not support SSL, but SSL was required; set up TLS"),
        (
            "?options=-c%20nosuch%3D1",
            "says: unrecognized configuration parameter \"nosuch\"; correct 'options'",
        ),
        ("?options=-c%20search_path%3Dnosuch", "no schema has been selected"),
        ("?options=-c%20synchronous_commit%3Doff", "synchronous_commit is off"),
    ],
)
def test_parameter_that_does_not_fit_is_refused(cluster: Cluster, change: str, why: str) -> None:
    assert why in refusal(cluster.url("leads") + change)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("no-such-host.invalid", "failed to resolve host 'no-such-host.invalid'"),
        ("a..b", "its host is no host name"),
        ("a" * 64 + ".test", "its host is no host name"),
    ],
)
def test_host_that_does_not_resolve_is_refused(host: str, why: str) -> None:
    said = refusal(f"postgresql://u:{PASSWORD}@{host}/db")
    if "Temporary failure" not in said:
        assert why in said and "correct" in said


# ---- the server's refusals


def test_wrong_login_is_refused(cluster: Cluster) -> None:
    good = cluster.url("leads")
    fix = "set the right user and password in LEADS_DATABASE_URL"
    for special in ("hun?ter2", "hun:ter2", "hun[ter2", "hünter2", "hun%40ter2", "hun%25ter2", "%2Funter"):
        said = refusal(good.replace(PASSWORD, special))
        assert f'says: password authentication failed for user "leads"; {fix}' in said
    assert fix in refusal(good.replace(f":{PASSWORD}", ":") + "?password=hun?ter2")
    assert "give the role's password" in refusal(good.replace(f":{PASSWORD}", ""))
    assert fix in refusal(good.replace(ROLE + ":", "somebody:"))
    # Of several hosts one refuses, and another does not listen.
    for ports in ((cluster.port, 1), (1, cluster.port)):
        assert fix in refusal(cluster.url("leads", *ports).replace(PASSWORD, "hunter2"))


def test_login_that_the_server_does_not_allow_is_refused(cluster: Cluster) -> None:
    good = cluster.url("leads")
    cluster.query("ALTER ROLE leads NOLOGIN")
    assert "ALTER ROLE … LOGIN" in refusal(good)
    cluster.query("ALTER ROLE leads LOGIN")
    cluster.query("CREATE DATABASE closed")
    cluster.query("REVOKE CONNECT ON DATABASE closed FROM public")
    assert "GRANT the role CONNECT" in refusal(cluster.url("closed"))
    assert 'database "gone" does not exist; make it with CREATE DATABASE' in refusal(cluster.url("gone"))


@pytest.fixture
def hba(cluster: Cluster) -> Iterator[Path]:
    """The file pg_hba.conf, which is restored after the test."""
    file = cluster.data / "pg_hba.conf"
    before = file.read_text()
    yield file
    file.write_text(before)
    reload(cluster)


def reload(cluster: Cluster) -> None:
    reloads = cluster.log.count("reloading configuration files")
    cluster.query("SELECT pg_reload_conf()")
    while cluster.log.count("reloading configuration files") == reloads:
        pass


def test_login_without_a_line_in_pg_hba_is_refused(cluster: Cluster, hba: Path) -> None:
    hba.write_text("local all all trust\n")
    reload(cluster)
    assert "allow it in pg_hba.conf on the database's host" in refusal(cluster.url("leads"))
    hba.write_text("local all all trust\nhost all all 127.0.0.1/32 trust\n")
    reload(cluster)
    said = refusal(cluster.url("leads").replace(ROLE + ":", "somebody:"))
    assert 'role "somebody" does not exist; make it with CREATE ROLE' in said


# ---- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def encrypted(authority: trustme.CA) -> Iterator[Cluster]:
    """A cluster with a certificate for another host."""
    with Cluster() as cluster:
        certificate = authority.issue_cert("db.example")
        for name, blob in (
            ("server.key", certificate.private_key_pem),
            ("server.crt", certificate.cert_chain_pems[0]),
        ):
            file = cluster.data / name
            blob.write_to_path(file)
            file.chmod(0o600)
            owner = cluster.data.stat()
            os.chown(file, owner.st_uid, owner.st_gid)
        cluster.stop()
        with (cluster.data / "postgresql.conf").open("a") as settings:
            settings.write("ssl = on\n")
        cluster.start()
        cluster.create_database("leads")
        yield cluster


def test_certificate_that_does_not_fit_is_refused(
    encrypted: Cluster, authority: trustme.CA, tmp_path: Path
) -> None:
    url, root = encrypted.url("leads"), tmp_path / "root.pem"
    authority.cert_pem.write_to_path(root)
    use(f"{url}?sslmode=require")
    use(f"{url}?sslmode=verify-ca&sslrootcert={root}")
    fix = "name the host as its certificate does, and the authority's file by sslrootcert"
    assert fix in refusal(f"{url}?sslmode=verify-full&sslrootcert={root}")
    trustme.CA().cert_pem.write_to_path(root)
    assert "certificate verify failed" in refusal(f"{url}?sslmode=verify-ca&sslrootcert={root}")
    assert fix in refusal(f"{url}?sslmode=verify-full&sslrootcert=/nonexistent")


# ---- the database


def tables(cluster: Cluster, database: str) -> list[tuple[str]]:
    of_public = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    return cluster.query(of_public, database=database)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE building (id int)",
        "CREATE TABLE customers (id int)",
        "CREATE TABLE schema_version (version int)",
        "CREATE TABLE schema_version (version text, works_with text)",
        "CREATE TABLE schema_version AS SELECT 1 AS major",
    ],
)
def test_database_of_some_other_program_is_refused_and_not_changed(cluster: Cluster, statement: str) -> None:
    cluster.drop_database("foreign")
    url = cluster.create_database("foreign")
    cluster.query(statement, database="foreign")
    cluster.query(f"ALTER TABLE {statement.split()[2]} OWNER TO leads", database="foreign")
    before = tables(cluster, "foreign")
    said = refusal(url)
    assert "the database has tables of some other program; name an empty one in LEADS_DATABASE_URL" in said
    assert tables(cluster, "foreign") == before


def test_tables_of_extensions_are_no_program_s(cluster: Cluster) -> None:
    url = cluster.create_database("extended")
    cluster.query("CREATE TABLE spatial_ref_sys (id int)", database="extended")
    cluster.query("CREATE EXTENSION pg_stat_statements", database="extended")
    cluster.query("ALTER EXTENSION pg_stat_statements ADD TABLE spatial_ref_sys", database="extended")
    use(url)


def test_role_without_rights_is_refused(cluster: Cluster) -> None:
    cluster.query("CREATE DATABASE bare TEMPLATE template0")
    said = refusal(cluster.url("bare"))
    assert (
        "permission denied for schema public; the role of LEADS_DATABASE_URL needs USAGE and CREATE" in said
    )
    assert tables(cluster, "bare") == []

    cluster.query("CREATE ROLE reader LOGIN PASSWORD 'correct-horse'")
    reader = cluster.url("leads").replace(ROLE + ":", "reader:")
    assert "permission denied for table schema_version" in refusal(reader)
    cluster.query("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", database="leads")
    assert "may not write to the table 'audit_entry'; take the role that owns the tables" in refusal(reader)
    cluster.query("GRANT ALL ON ALL TABLES IN SCHEMA public TO reader", database="leads")
    use(reader)
    cluster.query("REVOKE DELETE ON delivery FROM reader", database="leads")
    assert "may not write to the table 'delivery'" in refusal(reader)


def test_other_encoding_is_refused(cluster: Cluster) -> None:
    cluster.query("CREATE DATABASE ascii OWNER leads ENCODING 'SQL_ASCII' TEMPLATE template0")
    assert "encoding is SQL_ASCII; make one with CREATE DATABASE … ENCODING 'UTF8'" in refusal(
        cluster.url("ascii")
    )


@pytest.mark.parametrize("of", ["ROLE", "DATABASE"])
def test_commits_that_do_not_wait_for_the_disk_are_refused(cluster: Cluster, of: str) -> None:
    cluster.query(f"ALTER {of} leads SET synchronous_commit = off")
    try:
        said = refusal(cluster.url("leads"))
        assert "could lose leads" in said and "SET synchronous_commit = on" in said
    finally:
        cluster.query(f"ALTER {of} leads RESET synchronous_commit")


def test_too_old_a_version_is_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.storage.postgres.connection.OLDEST_VERSION", 99)
    assert "is too old; use 99 or later" in refusal(cluster.url("leads"))


# ---- what passes by itself


def test_full_and_closed_servers_may_take_a_later_connection(cluster: Cluster) -> None:
    good = cluster.url("leads")
    for change, back in (
        ("ALTER DATABASE leads CONNECTION LIMIT 0", "ALTER DATABASE leads CONNECTION LIMIT -1"),
        ("ALTER ROLE leads CONNECTION LIMIT 0", "ALTER ROLE leads CONNECTION LIMIT -1"),
        ("ALTER DATABASE leads ALLOW_CONNECTIONS false", "ALTER DATABASE leads ALLOW_CONNECTIONS true"),
        (
            "ALTER DATABASE leads SET default_transaction_read_only = on",
            "ALTER DATABASE leads RESET default_transaction_read_only",
        ),
    ):
        cluster.query(change)
        try:
            assert "PostgreSQL can't be reached" in refusal(good, StorageError)
        finally:
            cluster.query(back)
    said = refusal("postgresql://u:hunter2@127.0.0.1:1/db", StorageError)
    assert "Connection refused; see that it runs and can be reached from here" in said
    use(good)


def test_standby_alone_may_become_a_primary(cluster: Cluster) -> None:
    with Cluster() as primary:
        primary.create_database("leads")
        with primary.standby("second") as standby:
            said = refusal(standby.url("leads"), StorageError)
            assert "session is read-only; name the primary in LEADS_DATABASE_URL, or all hosts" in said
            any_host = standby.url("leads") + "?target_session_attrs=any"
            assert "is a standby" in refusal(any_host, StorageError)
            standby.promote()
            use(standby.url("leads"))


# ---- commands and `serve`


@pytest.mark.parametrize(
    "command", [["serve"], ["building", "list"], ["lead", "export"], ["outbox", "pause", "email"]]
)
def test_each_command_says_one_line_and_exits_1(cluster: Cluster, command: list[str], tmp_path: Path) -> None:
    url = cluster.url("leads").replace(PASSWORD, "hun?ter2")
    done = run(*command, database_url=url, data_dir=str(tmp_path / "data"), port="0")
    assert done.returncode == 1 and done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("leads: PostgreSQL at 127.0.0.1:") and "hun" not in line
    assert not (tmp_path / "data").exists()


def test_program_without_the_driver_says_how_to_install_it(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None; sys.argv = ['server.py', *sys.argv[1:]];"
        "import runpy; runpy.run_path('server.py', run_name='__main__')"
    )
    for command in (["serve", "--port", "0"], ["lead", "list"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *command],
            cwd=ROOT,
            env=environment(database_url="postgresql://u:hunter2@h/db", data_dir=str(tmp_path / "data")),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert "driver of PostgreSQL, which is not installed; run 'make postgresql'" in line
