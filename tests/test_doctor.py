"""The doctor: it checks everything, says what to do, and neither changes nor sends anything."""

import asyncio
import json
import shutil
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import apsw
import pytest
import tornado.web
import trustme
from aiosmtpd.smtp import SMTP
from command_line import ACTOR, Commands
from conftest import SECRET
from mail_server import PASSWORD, Mailbox, answers, listening
from server_process import ROOT, run, started
from test_process import damage_header, damage_inside, make_foreign
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from jobs.doctor.machine import check_clock, check_machine, check_space
from jobs.doctor.network import check_network
from jobs.doctor.units import duration_text
from models import settings
from models.check_result import OF_FILES, OF_POSTGRESQL, OK, PROBLEM, TITLES, WARNING, CheckResult
from models.clock import Clock, utc_text
from models.customer import Customer
from models.outbox.actions import pause
from models.outbox.claims import open_outbox
from models.outbox.delivery import DELIVERED, FAILED, SKIPPED, Delivery
from models.outbox.destination import EMAIL, JUNE_HOMES, Destination, trip
from models.storage import DatabaseUnusable
from models.storage.sqlite.backup import create_backup
from models.storage.sqlite.backup_files import checksum_file, new_path
from models.storage.sqlite.locks import server_lock
from models.storage.sqlite.migrations.steps import NEWEST

pytestmark = pytest.mark.sqlite("its checks of PostgreSQL are in test_postgresql_doctor.py")

NOW = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)
MIB, GIB = 2**20, 2**30


class Report:
    """The output of `doctor --json`."""

    def __init__(self, **settings: str) -> None:
        done = run("doctor", "--json", **{"mail_from": "leads@maple.test", **settings})
        self.said = done.stdout + done.stderr
        self.results = [json.loads(line) for line in done.stdout.splitlines()]
        self.status = done.returncode
        absent = OF_FILES if "database_url" in settings else OF_POSTGRESQL
        titles = [title for check, title in TITLES.items() if check not in absent]
        assert sorted({f["check"] for f in self.results}, key=titles.index) == titles, self.said
        problems = [f for f in self.results if f["state"] == PROBLEM]
        assert self.status == (1 if problems else 0), self.said
        assert len(done.stderr.splitlines()) == self.status, done.stderr
        for result in self.results:
            assert list(result) == ["check", "state", "found", "remedy", "id"]
            assert bool(result["remedy"]) == (result["state"] != OK), result
            assert all(text is None or text.isprintable() for text in result.values())

    def of(self, check: str) -> list[dict[str, Any]]:
        return [result for result in self.results if result["check"] == check]

    def one(self, check: str, state: str, *words: str) -> dict[str, Any]:
        """Return the only result of this check, which must have this state and these words."""
        [result] = self.of(check)
        assert result["state"] == state, result
        assert all(word in f"{result['found']} {result['remedy']}" for word in words), result
        return result


async def report(**settings: str) -> Report:
    """Return a report without blocking the servers of this process."""
    return await asyncio.to_thread(Report, **settings)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data folder with a building, which no process has open."""
    folder = tmp_path / "data"
    run("building", "add", "--name", "Maple", "--token", "maple", data_dir=str(folder))
    return folder


def register_before(data_dir: Path, ago: timedelta) -> None:
    """Backdate the registration of its building."""
    with closing(apsw.Connection(str(data_dir / "leads.db"))) as connection:
        connection.execute("UPDATE building SET created_at = ?", (utc_text(Clock().now() - ago),))


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return the modification time and content of each file in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


class Web:
    """An HTTP server with one response to everything. It keeps the requests."""

    def __init__(self, status: int = 200, body: bytes = b'{"status": "alive"}', **headers: str) -> None:
        self.status, self.body = status, body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.requests: list[tuple[str, str, bytes]] = []

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        web = self

        class Anything(tornado.web.RequestHandler):
            def prepare(self) -> None:
                web.requests.append((self.request.method or "", self.request.path, self.request.body))
                self.set_status(web.status)
                for name, value in web.headers.items():
                    self.set_header(name, value)
                self.finish(web.body or None)

        application = tornado.web.Application([(".*", Anything)], log_function=lambda handler: None)
        server = HTTPServer(application, ssl_options=tls)
        [socket] = sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{socket.getsockname()[1]}"
        finally:
            server.stop()
            await server.close_all_connections()


@asynccontextmanager
async def mail_server(mailbox: Mailbox, implicit: ssl.SSLContext | None = None, **options: Any) -> Any:
    def smtp() -> SMTP:
        return SMTP(mailbox, hostname="mx.test", authenticator=mailbox.authenticate, **options)

    async with listening(smtp, tls=implicit) as port:
        yield port


def smtp_url(port: int, scheme: str = "smtp", password: str = PASSWORD, query: str = "") -> str:
    return f"{scheme}://office:{password.replace(' ', '%20')}@127.0.0.1:{port}{query}"


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """A certificate authority that the program trusts."""
    trusted = trustme.CA()
    trusted.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return trusted


def certificate(of: trustme.CA, name: str = "127.0.0.1", days: float = 60) -> ssl.SSLContext:
    """Return a server certificate that expires in so many days."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    of.issue_cert(name, not_after=datetime.now(UTC) + timedelta(days=days)).configure_cert(context)
    return context


# ---- the whole report


def test_fresh_install_gets_the_next_steps_and_no_files(tmp_path: Path) -> None:
    report = Report(data_dir=str(tmp_path / "data"))
    assert report.status == 0
    report.one("database", WARNING, "there is none yet", "'serve' or 'building add'", "--data-dir")
    report.one("SMTP login", WARNING, "LEADS_SMTP_URL is not set: mail waits in the outbox")
    report.one("partner", OK, "not used")
    report.one("public URL", OK, "pages of registered websites alone")
    assert list(tmp_path.iterdir()) == []


async def test_all_is_ok_beside_a_running_server_without_sending(
    data_dir: Path, authority: trustme.CA
) -> None:
    run("backup", "create", data_dir=str(data_dir))
    mailbox, partner = Mailbox(), Web(405)
    async with (
        mail_server(mailbox, tls_context=certificate(authority)) as port,
        partner.listening(certificate(authority)) as partner_url,
    ):
        with started("serve", data_dir=str(data_dir)) as server:
            said = await report(
                data_dir=str(data_dir),
                smtp_url=smtp_url(port),
                june_homes_url=f"{partner_url}/leads",
                june_homes_secret=SECRET,
                public_url=server.url,
            )
            said.one("database", OK, "is whole", f"a server runs on it (process {server.process.pid})")
    assert said.status == 0
    assert {result["state"] for result in said.results} == {OK}, said.said
    assert mailbox.logins == [(b"office", PASSWORD.encode())] and not mailbox.envelopes
    assert partner.requests == [("HEAD", "/leads", b"")]
    assert [clock["found"][:12] for clock in said.of("clock")] == [
        "it reads 202",
        "it goes with",
        "it goes with",
    ]
    assert len(said.of("certificates")) == 2
    assert PASSWORD not in said.said and SECRET not in said.said


def test_text_output_has_the_fix_below_each_result(data_dir: Path) -> None:
    register_before(data_dir, timedelta(days=3))
    done = run("doctor", data_dir=str(data_dir))
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and done.stderr == "leads: 1 problem, 1 warning\n"
    assert f"ok       database      {data_dir}/leads.db is whole" in lines[0]
    [at] = [
        number for number, line in enumerate(lines) if line.startswith("problem  last backup   there is none")
    ]
    assert lines[at + 1].startswith(" " * 23 + "to do: run 'backup create'")
    assert "..." not in done.stderr


def test_terminal_shows_progress(tmp_path: Path) -> None:
    status, shown = Commands(tmp_path / "data").on_terminal("doctor")
    assert status == 0
    assert "reading the database ..." in shown and "trying the mail server" in shown
    assert "0 problems, 2 warnings" in shown


def test_doctor_changes_nothing_even_after_a_crash(data_dir: Path) -> None:
    run("backup", "create", data_dir=str(data_dir))
    for name in ("leads.db-wal", "leads.db-shm"):
        (data_dir / name).unlink(missing_ok=True)
    before = content(data_dir)
    Report(data_dir=str(data_dir)).one("database", OK, "no server runs on it")
    assert content(data_dir) == before

    with started("serve", data_dir=str(data_dir)) as server:
        server.process.kill()
        server.process.wait()
    before = content(data_dir)
    assert "leads.db-wal" in before
    Report(data_dir=str(data_dir)).one("database", OK, "no server runs on it")
    after = content(data_dir)
    for files in (before, after):
        files.pop("leads.db-shm")  # the shared memory of readers; SQLite rebuilds it after a crash
    assert after == before


def test_failing_check_is_a_result_that_quotes_nothing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise RuntimeError("secret inside")

    monkeypatch.setattr("jobs.doctor.machine.check_database", fail)
    monkeypatch.setattr("jobs.doctor.network.check_login", fail)
    given = {"data_dir": str(data_dir), "smtp_url": "smtp://127.0.0.1", "mail_from": "leads@maple.test"}
    loaded = settings.load(given, environment={})
    found = check_machine(loaded, Clock(), lambda step: None) + check_network(loaded, Clock())
    problems = [result for result in found if result.title in ("database", "SMTP login")]
    assert {(f.state, f.found) for f in problems} == {(PROBLEM, "the check itself failed (RuntimeError)")}


# ---- the database


def leave_rows_dangling(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(
            "INSERT INTO building_token (building_id, token, created_at) VALUES (99, 'x', 'y')"
        )
        connection.commit()


@pytest.mark.parametrize(
    ("damage", "found", "fix"),
    [
        (damage_header, "is corrupt", "'backup restore FILE'"),
        (damage_inside, "is corrupt", "'backup restore FILE'"),
        (
            leave_rows_dangling,
            "is damaged: rows in it belong to rows that are not there",
            "'backup restore FILE'",
        ),
        (make_foreign, "is some other program's database", "another LEADS_DATA_DIR"),
        (lambda file: file.rename(f"{file}-wal"), "is missing but its -wal file is there", "put both back"),
        (
            lambda file: file.rename(f"{file}.restoring"),
            "begun and not finished",
            "run 'backup restore' again",
        ),
    ],
    ids=["header", "inside", "dangling rows", "foreign", "journal alone", "restoring"],
)
def test_unusable_database_is_a_problem_and_is_not_changed(
    data_dir: Path, damage: Any, found: str, fix: str
) -> None:
    damage(data_dir / "leads.db")
    before = content(data_dir)
    said = Report(data_dir=str(data_dir))
    said.one("database", PROBLEM, found, fix)
    said.one("schema", WARNING, "see 'database'")
    said.one("outbox", WARNING, "see 'database'")
    assert content(data_dir) == before


def test_running_restore_is_reported_as_such(data_dir: Path) -> None:
    (data_dir / "leads.db.restoring").touch()
    with server_lock(data_dir):
        said = Report(data_dir=str(data_dir))
    said.one("database", PROBLEM, "a restore is under way (process ", "let it come to its end")


def test_lock_is_free_after_the_check(data_dir: Path) -> None:
    with server_lock(data_dir):
        Report(data_dir=str(data_dir)).one("database", OK, "a server runs on it")
        with pytest.raises(DatabaseUnusable):
            server_lock(data_dir).acquire()
    Report(data_dir=str(data_dir)).one("database", OK, "no server runs on it")
    with server_lock(data_dir):
        pass


def test_newer_schema_is_a_problem(data_dir: Path) -> None:
    with closing(sqlite3.connect(data_dir / "leads.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.commit()
    said = Report(data_dir=str(data_dir))
    said.one("database", OK)
    said.one("schema", PROBLEM, "99, newer than this program's", "run the newer version")
    said.one("outbox", WARNING, "see 'schema'")


def test_older_schema_is_reported_and_not_upgraded(tmp_path: Path) -> None:
    file = tmp_path / "leads.db"
    shutil.copyfile(ROOT / "tests/schemas/schema-1.db", file)
    before = content(tmp_path)
    said = Report(data_dir=str(tmp_path))
    said.one("schema", WARNING, f"1, older than this program's {NEWEST}", "upgrades it, with a backup before")
    words = [(result["state"], result["found"]) for result in said.of("outbox")]
    paused = "june_homes: 1 waiting, paused by the operator"
    assert words == [(PROBLEM, "email: 1 given up"), (WARNING, paused)]
    assert content(tmp_path) == before


def test_empty_database_file_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "leads.db").touch()
    said = Report(data_dir=str(tmp_path))
    said.one("database", OK)
    said.one("schema", WARNING, "the database is empty")
    said.one("outbox", OK)


async def test_waiting_deliveries_are_reported_with_the_command_to_run(tmp_path: Path) -> None:
    commands = Commands(tmp_path / "data")
    now = Clock().now()
    leads = commands.leads(*({"at": now, "listing_source": "june_homes"} for _ in range(3)))

    def outbox() -> list[tuple[str, str]]:
        said = Report(data_dir=str(commands.data_dir))
        return [(result["found"], result["remedy"] or "") for result in said.of("outbox")]

    unset = "no destination: LEADS_SMTP_URL is not set"
    assert outbox()[0] == (f"email: 3 waiting, {unset}", "set it, and start the server again")

    with commands.database():
        open_outbox(frozenset({EMAIL, JUNE_HOMES}))
    assert outbox() == [("6 waiting, nothing held, nothing given up", "")]

    with commands.database():
        trip(EMAIL, "mx.test answered AUTH with 535", now, None, needs_operator=True)
        pause(ACTOR, JUNE_HOMES, NOW)
        Delivery.update(state=FAILED).where(Delivery.lead == leads[0]).execute()
    (held, try_now), (failed, retry), (paused, resume), (also_failed, _) = outbox()
    assert held.startswith("email: 2 waiting, held until ") and "mx.test answered AUTH" in held
    assert "'outbox resume email'" in try_now
    assert (failed, also_failed) == ("email: 1 given up", "june_homes: 1 given up")
    assert "'outbox list --state failed --kind email'" in retry and "'outbox retry'" in retry
    assert (
        paused == "june_homes: 2 waiting, paused by the operator" and "'outbox resume june_homes'" in resume
    )


def test_destination_that_refuses_for_a_while_is_a_problem(tmp_path: Path) -> None:
    commands = Commands(tmp_path / "data")
    now = Clock().now()
    commands.leads({"at": now})
    states = []
    for _ in range(6):
        with commands.database():
            Destination.update(hold_until=None, configured=True).execute()
            trip(EMAIL, "mx.test answered DATA with 550 5.4.5 Daily limit", now, refuses=True)
            Destination.update(hold_until=now + timedelta(hours=1)).execute()
        states.append(Report(data_dir=str(commands.data_dir)).of("outbox")[0]["state"])
    assert (states[0], states[-1]) == (WARNING, PROBLEM)


# ---- the disk, the clock, the backups


@pytest.mark.parametrize(
    ("free", "database", "state"),
    [
        (100 * MIB - 1, 0, PROBLEM),
        (100 * MIB, 0, WARNING),
        (GIB - 1, 0, WARNING),
        (GIB, 0, OK),
        (GIB, GIB // 2, OK),
        (GIB, GIB // 2 + 1, WARNING),
    ],
)
def test_disk_needs_room_for_two_copies_of_the_database(free: int, database: int, state: str) -> None:
    result = check_space("the data", free, database)
    assert result.state == state and "free for the data" in result.found
    assert bool(result.fix) == (state != OK)


@pytest.mark.parametrize(("files", "state"), [(None, OK), (1_000, OK), (999, PROBLEM), (0, PROBLEM)])
def test_disk_needs_room_for_files_if_their_number_is_limited(files: int | None, state: str) -> None:
    assert check_space("the data", 10 * GIB, 0, files).state == state


def test_each_file_system_is_checked_once(data_dir: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == data_dir.stat().st_dev:
        pytest.skip("this machine has one file system")
    assert len(Report(data_dir=str(data_dir)).of("disk space")) == 1
    data, backups = Report(data_dir=str(data_dir), backup_dir=str(other / "not-made")).of("disk space")
    assert f"the data, in {data_dir}" in data["found"] and "for backups, in /dev/shm" in backups["found"]


def test_clock_behind_the_newest_lead_is_a_problem(tmp_path: Path) -> None:
    commands = Commands(tmp_path / "data")
    ahead = Clock().now() + timedelta(days=3, hours=1)
    commands.leads({"at": ahead})
    said = Report(data_dir=str(commands.data_dir))
    said.one("clock", PROBLEM, "3 days before the newest lead came", "NTP", "timedatectl")
    commands.leads({"at": Clock().now()})
    Report(data_dir=str(commands.data_dir)).one("clock", OK)


@pytest.mark.parametrize(
    ("seconds", "state"), [(-5, OK), (0, OK), (1, WARNING), (60, WARNING), (61, PROBLEM)]
)
def test_clock_slightly_behind_the_newest_lead_is_a_warning(seconds: int, state: str) -> None:
    assert check_clock(NOW + timedelta(seconds=seconds), NOW).state == state
    assert check_clock(None, NOW).state == OK


@pytest.mark.parametrize(
    ("off", "headers", "state", "words"),
    [
        (timedelta(seconds=-120), {}, WARNING, "ahead of"),
        (timedelta(seconds=200), {}, WARNING, "behind"),
        (timedelta(hours=-1), {}, PROBLEM, "ahead of"),
        (timedelta(hours=1), {}, PROBLEM, "behind"),
        (timedelta(hours=-1), {"Age": "3600"}, OK, "it reads"),
    ],
)
async def test_clock_that_differs_from_other_servers_is_reported(
    data_dir: Path, off: timedelta, headers: dict[str, str], state: str, words: str
) -> None:
    web = Web(405, b"", Date=format_datetime(datetime.now(UTC) + off, usegmt=True), **headers)
    async with web.listening() as url:
        said = await report(data_dir=str(data_dir), june_homes_url=url, june_homes_secret=SECRET)
    result = said.of("clock")[-1]
    assert (result["state"], words in result["found"]) == (state, True), result
    if state != OK:
        assert "NTP" in result["remedy"] and "5 minutes" in result["remedy"]


def back_up(data_dir: Path, ago: timedelta, why: str = "nightly") -> Path:
    path = new_path(data_dir, data_dir / "backups", why, Clock().now() - ago)
    create_backup(data_dir, path)
    return path


def test_old_backup_is_a_problem_if_nightly_backups_are_on(data_dir: Path) -> None:
    def last_backup(state: str, *words: str, keep: str = "14") -> None:
        said = Report(data_dir=str(data_dir), backup_keep=keep)
        said.one("last backup", state, *words)

    last_backup(WARNING, f"there is none in {data_dir}/backups yet", "'backup create'", "each night")
    register_before(data_dir, timedelta(hours=49))
    last_backup(PROBLEM, f"there is none in {data_dir}/backups", "'backup create'", "each night")
    last_backup(WARNING, "none is made at night", "LEADS_BACKUP_KEEP", keep="0")
    back_up(data_dir, -timedelta(days=3))  # made while the clock was wrong
    last_backup(PROBLEM, "there is none in")
    back_up(data_dir, timedelta(hours=49))
    last_backup(PROBLEM, "2 days ago", "'backup create'")
    last_backup(WARNING, "2 days ago", "none is made at night", keep="0")
    newest = back_up(data_dir, timedelta(hours=47), "manual")
    last_backup(OK, f"47 hours ago, {newest}, on the same disk as the data")
    last_backup(OK, "47 hours ago", keep="0")
    content = newest.read_bytes()
    newest.write_bytes(b"")
    last_backup(PROBLEM, f"47 hours ago, but {newest} is damaged", "'backup create'")
    newest.write_bytes(content)
    checksum_file(newest).unlink()
    last_backup(WARNING, f"{newest.name}.sha256 is missing", "'backup create'")


def test_backup_of_another_database_does_not_count(data_dir: Path, tmp_path: Path) -> None:
    register_before(data_dir, timedelta(days=3))
    other = Commands(tmp_path / "other")
    other.leads({})
    create_backup(other.data_dir, new_path(other.data_dir, data_dir / "backups", "manual", Clock().now()))
    Report(data_dir=str(data_dir)).one("last backup", PROBLEM, "there is none in")


def test_interrupted_creation_of_a_database_is_a_warning(data_dir: Path) -> None:
    (data_dir / "leads.db-journal").write_bytes(b"")
    before = content(data_dir)
    Report(data_dir=str(data_dir)).one("database", WARNING, "was being made", "begins anew")
    assert content(data_dir) == before


# ---- the mail server


@pytest.mark.parametrize(
    ("password", "options", "query", "found", "fix"),
    [
        (
            "wrong",
            {"auth_require_tls": False},
            "",
            "answered AUTH with 535",
            "user and password in LEADS_SMTP_URL",
        ),
        (PASSWORD, {}, "?starttls=always", "offers no STARTTLS", "starttls= in LEADS_SMTP_URL"),
        (PASSWORD, {"auth_require_tls": True}, "", "offers no login", "the user in LEADS_SMTP_URL"),
    ],
)
async def test_refused_login_is_a_problem_that_names_the_setting(
    tmp_path: Path, password: str, options: dict[str, Any], query: str, found: str, fix: str
) -> None:
    mailbox = Mailbox()
    async with mail_server(mailbox, **options) as port:
        said = await report(data_dir=str(tmp_path), smtp_url=smtp_url(port, password=password, query=query))
    said.one("SMTP login", PROBLEM, f"127.0.0.1:{port}", found, fix)
    assert password not in said.said and not mailbox.envelopes


async def test_unencrypted_login_is_reported_as_such(tmp_path: Path) -> None:
    async with mail_server(Mailbox(), auth_require_tls=False) as port:
        said = await report(data_dir=str(tmp_path), smtp_url=smtp_url(port))
        said.one("SMTP login", OK, "took the login of office, not encrypted")
        said.one("certificates", OK, "none is in use")
        said = await report(data_dir=str(tmp_path), smtp_url=f"smtp://127.0.0.1:{port}")
        said.one("SMTP login", OK, "answers; LEADS_SMTP_URL has no user")


async def test_missing_sender_is_a_problem(tmp_path: Path) -> None:
    commands = Commands(tmp_path / "data")
    commands.leads({})
    async with mail_server(Mailbox()) as port:
        url = f"smtp://127.0.0.1:{port}"
        said = await report(data_dir=str(commands.data_dir), smtp_url=url, mail_from="")
    login, sender = said.of("SMTP login")
    assert (login["state"], sender["state"]) == (OK, PROBLEM)
    assert sender["found"] == "LEADS_MAIL_FROM is not set: mail waits in the outbox"
    said.one("outbox", WARNING, "email: 1 waiting, no sender: LEADS_MAIL_FROM is not set")


@pytest.mark.parametrize("days", [60, 5, -1])
async def test_unverified_certificate_on_loopback_is_ok(tmp_path: Path, days: float) -> None:
    shown = certificate(trustme.CA(), "debian.test", days)
    async with mail_server(Mailbox(), tls_context=shown) as port:
        said = await report(data_dir=str(tmp_path), smtp_url=smtp_url(port))
    said.one("SMTP login", OK, "took the login of office, encrypted")
    said.one("certificates", OK, f"that of 127.0.0.1:{port} is not verified", "loopback")


async def test_unreachable_servers_are_problems_named_without_their_secrets(tmp_path: Path) -> None:
    [socket] = bind_sockets(0, "127.0.0.1")
    port = socket.getsockname()[1]
    socket.close()  # so that nothing listens there
    said = await report(
        data_dir=str(tmp_path),
        smtp_url=smtp_url(port),
        june_homes_url=f"https://user:{SECRET}@127.0.0.1:{port}/leads",
        june_homes_secret=SECRET,
        public_url=f"http://127.0.0.1:{port}",
    )
    said.one("SMTP login", PROBLEM, f"127.0.0.1:{port} failed at connecting", "LEADS_SMTP_URL")
    said.one("partner", PROBLEM, "can't be reached: Connection refused", "LEADS_JUNE_HOMES_URL")
    said.one("public URL", PROBLEM, "can't be reached", "check that the server runs", "DNS", "proxy")
    [of_mail] = {result["remedy"] for result in said.of("certificates")}
    assert "see 'partner'" == of_mail
    assert PASSWORD not in said.said and SECRET not in said.said


@pytest.mark.parametrize(
    "place",
    ["http://{}@127.0.0.1:{}", "https://{}@127.0.0.1:{}", "https://{}@none.invalid:{}", "https://{}@a..b:{}"],
)
async def test_no_result_shows_a_secret_of_the_partner_url(tmp_path: Path, place: str) -> None:
    async with Web(302).listening() as url:
        place = place.format("june:hunter2", url.rpartition(":")[2])
        said = await report(
            data_dir=str(tmp_path),
            june_homes_url=f"{place}/leads?key=k3y&k3y#fr4gment",
            june_homes_secret=SECRET,
        )
    [result] = said.of("partner")
    assert result["state"] in (PROBLEM, WARNING)
    assert not any(secret in said.said for secret in ("hunter2", "k3y", "fr4gment"))


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_silent_servers_are_left_at_the_deadline(tmp_path: Path) -> None:
    def protocol() -> asyncio.Protocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), silent)

    async with listening(protocol) as port:
        given = {
            "data_dir": str(tmp_path),
            "smtp_url": f"smtps://127.0.0.1:{port}",
            "mail_from": "leads@maple.test",
            "june_homes_url": f"https://localhost:{port}",
            "june_homes_secret": SECRET,
            "public_url": f"http://127.0.0.1:{port}",
        }
        loaded = settings.load(given, environment={})
        found = await asyncio.to_thread(check_network, loaded, Clock(), 0.5)
    states = {(result.title, result.state) for result in found}
    problems = {("SMTP login", PROBLEM), ("partner", PROBLEM), ("public URL", PROBLEM)}
    assert states == problems | {("certificates", WARNING)}
    assert all("in time" in f.found for f in found if f.state == PROBLEM), found


SLOW_RESOLVER = """
import socket, sys, time
from models.clock import Clock
from jobs.doctor.network import check_network
from models.settings import load
socket.getaddrinfo = lambda *args, **kwargs: time.sleep(600)
given = {"smtp_url": "smtp://mail.office.test", "public_url": "https://leads.office.test"}
for result in check_network(load(given, environment={}), Clock(), 0.2):
    print(result.title, result.state, result.found)
"""


def test_endless_name_lookup_delays_neither_results_nor_exit() -> None:
    command = [sys.executable, "-c", SLOW_RESOLVER]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "SMTP login problem mail.office.test:25 gave no answer in time at connecting" in done.stdout
    assert "public URL problem leads.office.test:443 gave no answer in time" in done.stdout


async def test_server_of_another_protocol_is_a_problem(tmp_path: Path) -> None:
    def protocol() -> asyncio.Protocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(), answers("220 hello", "500 what?"))

    async with listening(protocol) as port:
        said = await report(
            data_dir=str(tmp_path),
            june_homes_url=f"http://127.0.0.1:{port}",
            june_homes_secret=SECRET,
            public_url=f"https://127.0.0.1:{port}",
        )
    said.one("partner", PROBLEM)
    said.one("public URL", PROBLEM)
    said.one("certificates", WARNING, "could not be seen", "see 'public URL'")


# ---- the partner and the public URL


async def network_result(title: str, **given: str) -> CheckResult:
    """Return the only result of this check over the network."""
    loaded = settings.load(given, environment={})
    found = await asyncio.to_thread(check_network, loaded, Clock())
    [result] = [result for result in found if result.title == title]
    return result


@pytest.mark.parametrize(
    ("status", "state"),
    [
        *((status, OK) for status in (200, 204, 400, 401, 403, 405, 422, 429, 501)),
        *((status, WARNING) for status in (301, 307, 404, 410, 500, 502, 503)),
    ],
)
async def test_partner_status_decides_between_ok_and_warning(status: int, state: str) -> None:
    partner = Web(status, b"", **({"Location": "/elsewhere"} if status < 400 else {}))
    async with partner.listening() as url:
        given = {"june_homes_url": f"{url}/leads", "june_homes_secret": SECRET}
        result = await network_result("partner", **given)
    assert result.state == state and str(status) in result.found
    if 300 <= status < 500 and state == WARNING:
        assert "LEADS_JUNE_HOMES_URL" in (result.fix or "")
    assert partner.requests == [("HEAD", "/leads", b"")]  # once: a redirect is not followed


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (200, b'{"status": "alive"}', OK),
        (200, b'{"status": "asleep"}', PROBLEM),
        (200, b"<html>Welcome to nginx!</html>", PROBLEM),
        (200, b"x" * 100_000, PROBLEM),
        (301, b"", PROBLEM),
        (404, b"", PROBLEM),
        (502, b"", PROBLEM),
    ],
)
async def test_public_url_must_lead_to_this_program(status: int, body: bytes, state: str) -> None:
    web = Web(status, body, **({"Location": "/elsewhere"} if status == 301 else {}))
    async with web.listening() as url:
        result = await network_result("public URL", public_url=f"{url}/")
    assert result.state == state, result
    assert web.requests == [("GET", "/livez", b"")]
    if state == PROBLEM:
        assert "LEADS_PUBLIC_URL" in (result.fix or "")


# ---- certificates


@pytest.mark.parametrize(
    ("name", "days", "trusted", "state", "words"),
    [
        ("127.0.0.1", 60, True, OK, "ends in 59 days, on 20"),
        ("127.0.0.1", 5, True, WARNING, "ends in 4 days, on 20"),
        ("127.0.0.1", -1, True, PROBLEM, "certificate has expired"),
        ("127.0.0.1", 60, False, PROBLEM, "is not trusted"),
        ("other.test", 60, True, PROBLEM, "not valid for '127.0.0.1'"),
    ],
    ids=["good", "ends soon", "ended", "of a stranger", "of another name"],
)
@pytest.mark.parametrize("mode", ["smtps", "smtp"])  # the latter by STARTTLS, which must verify
async def test_each_certificate_is_checked_before_it_expires(
    tmp_path: Path,
    authority: trustme.CA,
    mode: str,
    name: str,
    days: int,
    trusted: bool,
    state: str,
    words: str,
) -> None:
    shown = certificate(authority if trusted else trustme.CA(), name, days)
    options: dict[str, Any] = {"tls_context": shown}
    if mode == "smtps":
        options = {"implicit": shown, "auth_require_tls": False}
    async with (
        mail_server(Mailbox(), **options) as port,
        Web().listening(shown) as partner,
        Web().listening(shown) as public,
    ):
        said = await report(
            data_dir=str(tmp_path),
            smtp_url=smtp_url(port, mode, query="?starttls=always"),
            june_homes_url=partner,
            june_homes_secret=SECRET,
            public_url=public,
        )
    results = said.of("certificates")
    assert [result["state"] for result in results] == [state] * 3, said.said
    for result, place in zip(results, (f"127.0.0.1:{port}", partner[8:], public[8:]), strict=True):
        assert place in result["found"] and words in result["found"], result
    of_others = [said.of(check)[0] for check in ("SMTP login", "partner", "public URL")]
    expected = (PROBLEM, "see 'certificates'") if state == PROBLEM else (OK, None)
    assert {(result["state"], result["remedy"]) for result in of_others} == {expected}, of_others


def test_duration_text_uses_the_largest_fitting_unit() -> None:
    texts = [
        duration_text(timedelta(seconds=s)) for s in (0, 1, 119, 120, 7_199, 7_200, 172_799, 172_800, -300)
    ]
    assert texts == [
        "0 seconds",
        "1 second",
        "119 seconds",
        "2 minutes",
        "119 minutes",
        "2 hours",
        "47 hours",
        "2 days",
        "5 minutes",
    ]


def test_unnotified_leads_are_reported(tmp_path: Path) -> None:
    commands = Commands(tmp_path / "data")
    now = Clock().now()
    commands.leads(
        {"at": now}, {"at": now, "token": "unknown"}, {"at": now - timedelta(days=8), "token": None}
    )
    commands.run("building", "add", "--name", "Mute", "--token", "mute")
    commands.leads({"at": now, "token": "mute"}, {"at": now, "token": "mute"})
    unassigned, without_agent = Report(data_dir=str(commands.data_dir)).of("leads untold")
    assert (unassigned["state"], without_agent["state"]) == (WARNING, WARNING)
    assert unassigned["found"] == "1 of the last 7 days matched no building"
    assert "'lead assign'" in unassigned["remedy"]
    assert without_agent["found"] == "2 of the last 7 days are of buildings without an agent e-mail"
    commands.run("lead", "assign", "2", "1")
    commands.run("building", "update", "2", "--agent-email", "agent@mute.test")
    Report(data_dir=str(commands.data_dir)).one("leads untold", OK, "none in the last 7 days")


def test_C24b_a_lead_counts_as_unnotified_by_its_newest_mail(tmp_path: Path) -> None:
    commands = Commands(tmp_path / "data")
    now = Clock().now()
    commands.leads({"at": now})
    commands.run("building", "add", "--name", "Mute", "--token", "mute")
    commands.leads({"at": now, "token": "mute"})
    commands.run("lead", "send", 2, "--to", "boss@office.test")
    with commands.database():
        Delivery.update(state=DELIVERED, due_at=None, sent_at=now).execute()
        Delivery.update(state=SKIPPED).where(Delivery.id == 2).execute()
    Report(data_dir=str(commands.data_dir)).one("leads untold", OK)
    commands.run("lead", "assign", 1, 2)  # its newest mail is skipped
    without_agent = Report(data_dir=str(commands.data_dir)).one("leads untold", WARNING)
    assert without_agent["found"].startswith("1 of the last 7 days are of buildings without an agent")


@pytest.mark.parametrize("schema", range(1, NEWEST))
def test_customers_of_an_older_schema_raise_no_warning(tmp_path: Path, schema: int) -> None:
    shutil.copyfile(ROOT / "tests" / "schemas" / f"schema-{schema}.db", tmp_path / "leads.db")
    before = content(tmp_path)
    Report(data_dir=str(tmp_path)).one("customers", OK)
    assert content(tmp_path) == before


def test_merged_customers_are_reported_with_the_command(tmp_path: Path) -> None:
    commands = Commands(tmp_path / "data")
    commands.leads({}, *({"email": f"renter{n}@renter.test", "phone": None} for n in range(12)))
    Report(data_dir=str(commands.data_dir)).one("customers", OK, "leads of one renter")
    with commands.database():
        Customer.update(merged=True).execute()
    found = Report(data_dir=str(commands.data_dir)).one("customers", WARNING, "'customer split ID'")
    assert found["id"] == "merged_customers" and found["found"].startswith("13 with leads of several")
    assert found["found"].endswith(": 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …")
    for row in commands.rows("customer", "list", "--merged"):
        commands.run("customer", "split", row["id"])
    Report(data_dir=str(commands.data_dir)).one("customers", OK)


def test_data_folder_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    Report(data_dir=str(tmp_path / "file")).one("database", PROBLEM, "is no folder", "--data-dir")
