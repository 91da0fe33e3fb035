"""Moves between a data folder and PostgreSQL: nothing is lost, changed, or mailed twice."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import ACTOR, NOW, Commands
from postgresql import database_url, forget
from server_process import ROOT, environment, started
from test_backup import content, query

from handlers.terminal.move import _place
from models import settings
from models.errors import Conflict, NotFound
from models.moving import Moved, move_to_folder, move_to_postgres, undo_move
from models.storage import DatabaseUnusable, StorageError
from models.storage.postgres.migrations.steps import NEWEST
from models.storage.sqlite.connection import close_database
from models.storage.sqlite.folder import open_database
from models.storage.sqlite.locks import server_lock
from models.storage.sqlite.moving import MOVING

pytestmark = pytest.mark.sqlite("it moves between both databases in each run")
SCHEMAS = Path(__file__).parent / "schemas"
LEADS = "/api/v1/website_leads"
MOVED_TO = "SELECT moved_to FROM installation"
SERVERS_SECRET = "the-secret-of-the-servers"
Rows = dict[str, list[tuple[Any, ...]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with every kind of row, of an older schema, and its secret."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    shutil.copyfile(SCHEMAS / "schema-7.db", data / "leads.db")
    return data


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """An empty PostgreSQL database."""
    yield database_url(tmp_path / "target")
    forget(tmp_path / "target")


def configured(folder: Path, url: str = "", **others: str) -> settings.Settings:
    return settings.load({"data_dir": str(folder), "database_url": url, **others}, environment={})


def to_postgres(folder: Path, url: str, **others: str) -> Moved:
    return move_to_postgres(configured(folder, **others), url, ACTOR, NOW, lambda step: None)


def to_folder(url: str, folder: Path, **others: str) -> Moved:
    elsewhere = folder.parent / "server"
    return move_to_folder(configured(elsewhere, url, **others), folder, ACTOR, NOW, lambda step: None)


def upgrade(folder: Path) -> None:
    open_database(folder)
    close_database(checkpoint=True)


def edit(folder: Path, *statements: str) -> None:
    """Change the newest schema's rows in a way that the program itself would not."""
    upgrade(folder)
    with closing(sqlite3.connect(folder / "leads.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def in_folder(folder: Path, *, but: tuple[str, ...] = ()) -> Rows:
    file = folder / "leads.db"
    names = [str(name) for (name,) in query(file, "SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return {name: sorted(query(file, f'SELECT * FROM "{name}"')) for name in names if name not in but}


def in_postgres(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def tables_in(url: str) -> set[str]:
    found = in_postgres(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {name for (name,) in found}


def pauses(rows: list[tuple[Any, ...]]) -> set[str]:
    return {reason for (reason,) in rows}


def test_a_move_there_and_back_keeps_every_row(folder: Path, url: str, tmp_path: Path) -> None:
    edit(folder, "INSERT INTO idempotency_key VALUES (x'00ff', x'', x'5c', 1, '2026-11-23T15:00:00.000000Z')")
    changed = "destination", "audit_entry", "sqlite_sequence"
    before = in_folder(folder, but=changed)
    audit = in_folder(folder)["audit_entry"]
    moved = to_postgres(folder, url)
    assert moved.tables["lead"].rows == len(before["lead"]) > 5 and moved.rows > 50
    assert set(moved.tables) == {*before, "destination", "audit_entry"} == tables_in(url) - {"schema_version"}
    assert "wal" not in content(folder)
    to_folder(url, tmp_path / "back")
    assert in_folder(tmp_path / "back", but=changed) == before
    back = in_folder(tmp_path / "back")
    assert back["audit_entry"][: len(audit)] == audit
    assert [row[4] for row in back["audit_entry"][len(audit) :]] == 2 * [
        "database.move",
        "destination.pause",
        "destination.pause",
    ]
    tables = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"
    assert query(tmp_path / "back" / "leads.db", tables) == query(folder / "leads.db", tables)
    assert (tmp_path / "back" / "leads.db").stat().st_mode & 0o777 == 0o600
    assert MOVING not in content(tmp_path / "back")


def test_every_table_has_rows_in_the_test_of_the_way_there_and_back(folder: Path) -> None:
    edit(folder, "INSERT INTO idempotency_key VALUES (x'00ff', x'', x'5c', 1, '2026-11-23T15:00:00.000000Z')")
    empty = {name for name, rows in in_folder(folder).items() if not rows}
    assert empty <= {"recent_text", "daily_count", "storage_check", "sqlite_stat1"}


def test_C4_ids_of_deleted_rows_are_not_given_out_again(folder: Path, url: str, tmp_path: Path) -> None:
    upgrade(folder)
    last = max(row[0] for row in in_folder(folder)["lead"])
    edit(
        folder,
        f"UPDATE sqlite_sequence SET seq = {last + 7} WHERE name = 'lead'",
        "DELETE FROM sqlite_sequence WHERE name = 'building_website'",
    )
    to_postgres(folder, url)
    nextval = "SELECT nextval(pg_get_serial_sequence('lead', 'id'))"
    assert in_postgres(url, nextval) == [(last + 8,)]
    to_folder(url, tmp_path / "back")
    kept: dict[str, int] = dict(in_folder(tmp_path / "back")["sqlite_sequence"])
    assert kept["lead"] == last + 8
    assert kept["building_website"] == max(row[0] for row in in_folder(folder)["building_website"])


def test_a_table_that_has_given_out_no_id_begins_with_one(folder: Path, url: str) -> None:
    shutil.rmtree(folder)
    upgrade(folder)
    to_postgres(folder, url)
    assert in_postgres(url, "SELECT nextval(pg_get_serial_sequence('lead', 'id'))") == [(1,)]
    assert in_postgres(url, "SELECT nextval(pg_get_serial_sequence('pipeline_stage', 'id'))") == [(7,)]


def test_both_outboxes_are_paused_after_a_move(folder: Path, url: str, tmp_path: Path) -> None:
    reasons = "SELECT DISTINCT pause_reason FROM destination WHERE paused"
    to_postgres(folder, url)
    [there] = pauses(query(folder / "leads.db", reasons))
    assert there.startswith("since all leads were moved to postgresql://leads:***@127.0.0.1:")
    assert pauses(in_postgres(url, reasons)) == {
        f"since all leads were moved here from {folder} at 2026-11-23 15:00Z"
    }
    to_folder(url, tmp_path / "back")
    assert pauses(in_postgres(url, reasons)) == {
        f"since all leads were moved to {tmp_path / 'back'} at 2026-11-23 15:00Z"
    }
    [here] = pauses(query(tmp_path / "back" / "leads.db", reasons))
    assert here.startswith("since all leads were moved here from postgresql://leads:***@")
    assert "correct-horse" not in here + there


def test_a_delivery_that_a_crash_left_in_sending_waits_in_the_target(folder: Path, url: str) -> None:
    edit(
        folder,
        "UPDATE delivery SET state = 'sending', claimed_by = 'x' WHERE id = 1",
        "UPDATE delivery_attempt SET outcome = NULL WHERE delivery_id = 1",
    )
    to_postgres(folder, url)
    assert in_postgres(url, "SELECT state, claimed_by FROM delivery WHERE id = 1") == [("pending", None)]
    [(outcome,)] = in_postgres(
        url, "SELECT outcome FROM delivery_attempt WHERE delivery_id = 1 AND number = 1"
    )
    assert outcome.startswith("cut off")


KILLED = """
import os, sys
from pathlib import Path
from test_move import ACTOR, NOW, configured, move_to_folder, move_to_postgres
from models.storage.postgres.moving import PostgresSource, PostgresTarget
from models.storage.sqlite.moving import SqliteSource, SqliteTarget

side, method, url, source, target = sys.argv[1:]
kill = lambda *arguments: os.kill(os.getpid(), 9)
places = {"to": (PostgresTarget, SqliteSource), "back": (SqliteTarget, PostgresSource)}[side]
place, name = (places[1], "change") if method == "pause" else (places[0], method)
setattr(place, name, kill)
if side == "to":
    move_to_postgres(configured(Path(source)), url, ACTOR, NOW, lambda step: None)
else:
    move_to_folder(configured(Path(source), url), Path(target), ACTOR, NOW, lambda step: None)
"""


def killed_move(side: str, method: str, url: str, source: Path, target: Path) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, side, method, url, str(source), str(target)],
        env={**environment(), "PYTHONPATH": paths},
        timeout=60,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


POINTS = ["write", "continue_ids", "read", "change", "seal", "pause", "commit"]


@pytest.mark.parametrize("method", POINTS)
def test_a_move_to_postgresql_that_is_killed_leaves_it_empty(folder: Path, url: str, method: str) -> None:
    upgrade(folder)
    before = in_folder(folder)
    killed_move("to", method, url, folder, folder)
    assert tables_in(url) == set()
    upgrade(folder)  # which reads the journal that was left
    now = in_folder(folder)
    if method == "commit":  # from here on nothing may leave from the source
        assert all("moved to postgresql://" in row[6] for row in now["destination"])
    else:
        assert now == before
    assert to_postgres(folder, url).tables["lead"].rows == len(before["lead"])
    assert in_postgres(url, MOVED_TO) == [(None,)]


@pytest.mark.parametrize("method", POINTS)
def test_a_move_to_a_folder_that_is_killed_leaves_no_database(
    folder: Path, url: str, method: str, tmp_path: Path
) -> None:
    to_postgres(folder, url)
    in_postgres(url, "UPDATE destination SET pause_reason = 'x'")
    back = tmp_path / "back"
    killed_move("back", method, url, tmp_path / "server", back)
    assert not (back / "leads.db").exists()
    [(reason,)] = set(in_postgres(url, "SELECT pause_reason FROM destination"))
    assert reason == (
        f"since all leads were moved to {back} at 2026-11-23 15:00Z" if method == "commit" else "x"
    )
    to_folder(url, back)
    assert in_folder(back)["lead"] == in_folder(folder)["lead"]
    assert query(back / "leads.db", MOVED_TO) == [(None,)]
    assert MOVING not in content(back)


def test_a_row_that_the_target_changes_is_found(folder: Path, url: str) -> None:
    empty = folder.parent / "empty"
    upgrade(empty)
    to_postgres(empty, url)
    for statement in (
        "DELETE FROM audit_entry",
        "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN IF NEW.id = 3 THEN NEW.message = concat(NEW.message, ' '); END IF; RETURN NEW; END$$",
        "CREATE TRIGGER change BEFORE INSERT ON lead FOR EACH ROW EXECUTE FUNCTION change()",
    ):
        in_postgres(url, statement)
    upgrade(folder)
    before = in_folder(folder)
    with pytest.raises(
        DatabaseUnusable, match="^the copy of lead is not what the source has: 10 rows, of 10$"
    ):
        to_postgres(folder, url)
    assert in_folder(folder) == before
    assert in_postgres(url, "SELECT count(*) FROM lead") == [(0,)]
    in_postgres(url, "DROP TRIGGER change ON lead")
    to_postgres(folder, url)


@pytest.mark.parametrize(
    "statement, said",
    [
        (
            "UPDATE lead SET message = 'a' || char(0) || 'b' WHERE id = 2",
            "lead 2: message has a NUL character",
        ),
        ("UPDATE customer SET name = CAST(x'c328' AS TEXT) WHERE id = 1", "customer 1: name is not UTF-8"),
        ("UPDATE building SET name = CAST(x'eda080' AS TEXT) WHERE id = 2", "building 2: name is not UTF-8"),
        ("UPDATE lead SET requestor_name = x'41' WHERE id = 4", "lead 4: requestor_name is of type blob"),
        ("UPDATE customer SET spam = 2 WHERE id = 1", "customer 1: spam is 2, neither 0 nor 1"),
        ("UPDATE customer SET merged = 'no' WHERE id = 1", "customer 1: merged is of type text"),
        (
            "UPDATE delivery SET attempts = 3000000000 WHERE id = 1",
            "delivery 1: attempts is 3000000000, which is too large",
        ),
        ("UPDATE delivery SET failures = 0.5 WHERE id = 1", "delivery 1: failures is of type real"),
        (
            "INSERT INTO idempotency_key VALUES ('k', x'', x'', 1, '2026')",
            "idempotency_key 'k', X'': digest is of type text",
        ),
        (
            "INSERT INTO daily_count VALUES ('2026-11-23', 'a' || char(0), 1)",
            "daily_count '2026-11-23', 'a': name has a NUL character",
        ),
    ],
)
def test_a_row_that_postgresql_refuses_is_named(folder: Path, url: str, statement: str, said: str) -> None:
    edit(folder, statement)
    before = in_folder(folder, but=("customer", "building", "lead", "daily_count"))
    with pytest.raises(DatabaseUnusable) as refused:
        to_postgres(folder, url)
    assert str(refused.value) == f"rows that can't be moved: {said}"
    assert tables_in(url) == set()
    assert in_folder(folder, but=("customer", "building", "lead", "daily_count")) == before


def test_several_refused_rows_are_named_at_once(folder: Path, url: str) -> None:
    edit(folder, "UPDATE lead SET website = 'a' || char(0)")
    with pytest.raises(
        DatabaseUnusable, match=r"moved \(and more\): lead 1: website .*; .*lead 5: "
    ) as refused:
        to_postgres(folder, url)
    assert "\n" not in str(refused.value) and "lead 6" not in str(refused.value)


def test_a_row_that_belongs_to_none_is_refused(folder: Path, url: str) -> None:
    edit(folder, "UPDATE deal SET lead_id = 99 WHERE id = 1")
    with pytest.raises(
        DatabaseUnusable, match=r"refuses rows of deal: .*Key \(lead_id\)=\(99\) is not present"
    ):
        to_postgres(folder, url)
    assert tables_in(url) == set()


@pytest.mark.parametrize(
    "text", ["\\N", "\\.", "a\tb\nc\\", "\u2028\U0001f33b", "\"'", "{a,b}", "\x7f\x01", "  "]
)
def test_any_text_is_moved_as_it_is(folder: Path, url: str, tmp_path: Path, text: str) -> None:
    upgrade(folder)
    with closing(sqlite3.connect(folder / "leads.db")) as connection, connection:
        connection.execute("UPDATE lead SET message = ?", [text])
    to_postgres(folder, url)
    assert set(in_postgres(url, "SELECT message FROM lead")) == {(text,)}
    to_folder(url, tmp_path / "back")
    assert set(query(tmp_path / "back" / "leads.db", "SELECT message FROM lead")) == {(text,)}


def test_a_target_with_rows_is_refused_and_unchanged(folder: Path, url: str, tmp_path: Path) -> None:
    to_postgres(folder, url)
    names = sorted(tables_in(url))
    before = {name: in_postgres(url, f'SELECT * FROM "{name}"') for name in names}
    with pytest.raises(DatabaseUnusable, match="is not empty: its table audit_entry has rows"):
        to_postgres(folder, url)
    assert {name: in_postgres(url, f'SELECT * FROM "{name}"') for name in names} == before
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "leads.db").write_bytes(b"")
    with pytest.raises(DatabaseUnusable, match=f"there is a leads.db in {tmp_path / 'there'}"):
        to_folder(url, tmp_path / "there")
    assert (tmp_path / "there" / "leads.db").read_bytes() == b""


def test_a_database_of_some_other_program_is_refused(folder: Path, url: str) -> None:
    in_postgres(url, "CREATE TABLE orders AS SELECT 1 AS id")
    with pytest.raises(DatabaseUnusable, match="table '?orders"):
        to_postgres(folder, url)
    in_postgres(url, "DROP TABLE orders")
    in_postgres(url, "CREATE TABLE lead (x int)")
    with pytest.raises(DatabaseUnusable, match="the database has tables of some other program"):
        to_postgres(folder, url)
    assert tables_in(url) == {"lead"}


def test_a_target_that_a_server_has_opened_once_counts_as_empty(
    folder: Path, url: str, tmp_path: Path
) -> None:
    Commands(tmp_path / "other", {"database_url": url}).run("building", "list")
    assert "lead" in tables_in(url)
    to_postgres(folder, url)
    upgrade(tmp_path / "other")
    assert in_postgres(url, "SELECT id FROM installation") == query(
        folder / "leads.db", "SELECT id FROM installation"
    )


def test_a_source_without_leads_is_no_source(folder: Path, url: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no leads.db in"):
        to_postgres(tmp_path / "nowhere", url)
    with pytest.raises(DatabaseUnusable, match="has no leads to move"):
        to_folder(url, tmp_path / "back")
    assert tables_in(url) == set() and not (tmp_path / "back" / "leads.db").exists()


def test_tables_and_columns_of_others_are_refused(folder: Path, url: str, tmp_path: Path) -> None:
    edit(folder, "CREATE TABLE mine (id INTEGER PRIMARY KEY)")
    with pytest.raises(DatabaseUnusable, match="the table mine is none of this program's"):
        to_postgres(folder, url)
    edit(folder, "DROP TABLE mine", "ALTER TABLE lead ADD COLUMN mine TEXT")
    with pytest.raises(DatabaseUnusable, match="the column lead.mine is in one of the two databases only"):
        to_postgres(folder, url)
    edit(folder, "ALTER TABLE lead DROP COLUMN mine")
    to_postgres(folder, url)
    in_postgres(url, f"UPDATE schema_version SET version = {NEWEST + 1}")
    with pytest.raises(DatabaseUnusable, match=f"has schema {NEWEST + 1}, and this program moves {NEWEST}"):
        to_folder(url, tmp_path / "back")


def test_a_place_that_a_server_uses_is_not_moved(folder: Path, url: str, tmp_path: Path) -> None:
    with server_lock(folder), pytest.raises(DatabaseUnusable, match="another server .* stop it first"):
        to_postgres(folder, url)
    assert tables_in(url) == set()
    with psycopg.connect(url, application_name="leads server"):
        with pytest.raises(DatabaseUnusable, match="servers use the PostgreSQL database"):
            to_postgres(folder, url)
    to_postgres(folder, url)
    with psycopg.connect(url, application_name="leads server"):
        with pytest.raises(DatabaseUnusable, match=r"servers use .*\(from 127.0.0.1\); stop them first"):
            to_folder(url, tmp_path / "back")
    to_folder(url, tmp_path / "back")


def test_a_source_can_not_be_changed_during_a_move(folder: Path, url: str, tmp_path: Path) -> None:
    said: list[str] = []

    def add_building(step: str) -> None:
        said.append(Commands(folder).refusal("building", "add", "--name", "Oak"))

    upgrade(folder)
    move_to_postgres(configured(folder), url, ACTOR, NOW, add_building)
    assert said and set(said) == {f"a restore into {folder}, or a move, is under way; let it come to its end"}

    refused: list[str] = []

    def add_stage(step: str) -> None:
        with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute("SET lock_timeout = '10ms'")
            connection.execute("INSERT INTO pipeline_stage (position, name) VALUES (9, 'lost again')")
        refused.append(step)

    move_to_folder(configured(tmp_path / "server", url), tmp_path / "back", ACTOR, NOW, add_stage)
    assert refused == ["copying all rows", "comparing all rows"]


@pytest.mark.parametrize("step", ["copying all rows", "comparing all rows"])
def test_a_server_that_starts_during_a_move_stops_it(
    folder: Path, url: str, tmp_path: Path, step: str
) -> None:
    to_postgres(folder, url)
    reasons = in_postgres(url, "SELECT pause_reason FROM destination")
    with ExitStack() as stack:

        def start(now: str) -> None:
            if now == step:
                stack.enter_context(psycopg.connect(url, application_name="leads server"))

        with pytest.raises(DatabaseUnusable, match=r"servers use the PostgreSQL database \(from 127"):
            move_to_folder(configured(tmp_path / "server", url), tmp_path / "back", ACTOR, NOW, start)
    assert in_postgres(url, MOVED_TO) == [(None,)]
    assert in_postgres(url, "SELECT pause_reason FROM destination") == reasons
    assert not (tmp_path / "back" / "leads.db").exists()


def test_a_command_that_waited_for_a_move_is_refused(folder: Path, url: str, tmp_path: Path) -> None:
    to_postgres(folder, url)
    command, variables = Commands(folder, {"database_url": url}).arguments("building", "add", "--name", "Oak")
    waiting: list[subprocess.Popen[str]] = []
    waits = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'leads command' AND wait_event_type = 'Lock'"
    )

    def start(step: str) -> None:
        if not waiting:
            waiting.append(
                subprocess.Popen(command, env=variables, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
            )
            for _ in range(1_000):
                if in_postgres(url, waits):
                    return
                time.sleep(0.02)
            raise AssertionError("it does not wait")

    move_to_folder(configured(tmp_path / "server", url), tmp_path / "back", ACTOR, NOW, start)
    _, said = waiting[0].communicate(timeout=60)
    assert said.startswith(f"leads: all leads were moved from here to {tmp_path / 'back'}; ")
    assert in_postgres(url, "SELECT 1 FROM building WHERE name = 'Oak'") == []


def check_given_up(commands: Commands, target: str, leads: int) -> None:
    """Check that what was moved can be read and not changed, until the move is undone."""
    refusal = f"all leads were moved from here to {target}; use that place. If it has taken no lead since, "
    for command in (
        ["serve", "--port", "0"],
        ["building", "add", "--name", "Oak"],
        ["token", "rotate", "1"],
        ["customer", "flag-spam", "1"],
        ["lead", "assign", "1", "1"],
        ["outbox", "resume", "email"],
        ["outbox", "retry", "--failed"],
    ):
        assert commands.refusal(*command).startswith(refusal), command
    assert len(commands.rows("lead", "list")) == leads and commands.rows("outbox", "list")
    commands.run("customer", "erase", "1", "--yes")
    assert commands.row("customer", "show", "1")["erased_at"]
    doctor = map(json.loads, commands.run("doctor", "--json", status=1).stdout.splitlines())
    [outbox] = [check for check in doctor if check["id"] == "outbox"]
    assert (outbox["state"], outbox["found"]) == ("problem", f"all leads were moved from here to {target}")
    assert "resume" not in outbox["remedy"]
    done = commands.run("move", "--undo").stdout
    assert f"Start no server on {target} any more" in done and "correct-horse" not in done
    assert commands.refusal("move", "--undo").startswith("there is no move to undo")
    commands.run("building", "add", "--name", "Oak")
    assert "paused" in commands.run("outbox", "list").stdout
    database = commands.settings.get("database_url", "")
    with started("serve", data_dir=str(commands.data_dir), database_url=database) as server:
        send(server.url)


def test_a_moved_folder_takes_no_leads_until_the_move_is_undone(folder: Path, url: str) -> None:
    masked = to_postgres(folder, url).target
    assert query(folder / "leads.db", MOVED_TO) == [(masked,)] and "***" in masked
    check_given_up(Commands(folder), masked, 10)


def test_a_moved_postgresql_takes_no_leads_until_the_move_is_undone(
    folder: Path, url: str, tmp_path: Path
) -> None:
    to_postgres(folder, url)
    to_folder(url, tmp_path / "back")
    commands = Commands(tmp_path / "server", {"database_url": url})
    check_given_up(commands, str(tmp_path / "back"), 10)


def test_a_moved_place_moves_only_to_the_same_target(folder: Path, url: str, tmp_path: Path) -> None:
    to_postgres(folder, url)
    to_folder(url, tmp_path / "back")
    with pytest.raises(DatabaseUnusable, match=f"moved from here to {tmp_path / 'back'}; use that place"):
        to_folder(url, tmp_path / "other")
    assert not (tmp_path / "other" / "leads.db").exists()
    (tmp_path / "back" / "leads.db").unlink()  # as if the last step had not been done
    to_folder(url, tmp_path / "back")


def test_the_place_in_a_note_holds_for_any_working_directory(folder: Path, url: str, tmp_path: Path) -> None:
    to_postgres(folder, url)
    commands = Commands(folder, {"database_url": url})
    assert commands.row("move", "--to", "back")["to"] == str(tmp_path / "back")
    assert in_postgres(url, MOVED_TO) == [(str(tmp_path / "back"),)]


def test_an_undo_is_audited(folder: Path, url: str) -> None:
    to_postgres(folder, url)
    Commands(folder).run("move", "--undo")
    assert in_folder(folder)["audit_entry"][-1][4] == "database.undo_move"
    with Commands(folder).database(), pytest.raises(Conflict, match="there is no move to undo"):
        undo_move(ACTOR, NOW)
    assert "there is no leads.db" in Commands(folder.parent / "nowhere").refusal("move", "--undo")


def test_a_full_disk_leaves_no_database(folder: Path, url: str, tmp_path: Path) -> None:
    edit(folder, "UPDATE lead SET message = printf('%.9000c', 'm')")
    to_postgres(folder, url)
    in_postgres(url, "UPDATE destination SET paused = false")
    command, variables = Commands(tmp_path / "server", {"database_url": url}).arguments(
        "move", "--to", tmp_path / "back"
    )
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 150; exec "$@"', "-", *command],
        env=variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "nothing was changed" in done.stderr
    assert not [name for name in content(tmp_path / "back") if name.startswith("leads.db")]
    assert in_postgres(url, "SELECT DISTINCT paused FROM destination") == [(False,)]


def test_a_failed_last_step_says_that_the_source_is_paused(
    folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> bool:
        raise StorageError("the server closed the connection")

    monkeypatch.setattr("models.storage.postgres.moving.commit", fail)
    with pytest.raises(DatabaseUnusable, match=f"the outbox of {folder} is paused. Move again"):
        to_postgres(folder, url)
    assert tables_in(url) == set()
    monkeypatch.undo()
    to_postgres(folder, url)


def send(url: str) -> object:
    """Send a lead with an idempotency key; return the answer."""
    lead = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}
    headers = {"Content-Type": "application/json", "Idempotency-Key": "once"}
    request = urllib.request.Request(url + LEADS, json.dumps(lead).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def test_a_move_brings_the_secret_along(folder: Path, url: str, tmp_path: Path) -> None:
    with started("serve", data_dir=str(folder)) as server:
        first = send(server.url)
    secret = Commands(folder).row("secret", "show")["secret"]
    assert to_postgres(folder, url).has_secret
    other = Commands(tmp_path / "two", {"database_url": url, "secret": "another-secret-of-one"})
    assert "the servers on this database have another secret" in other.refusal("serve", "--port", "0")
    with started("serve", data_dir=str(tmp_path / "two"), database_url=url, secret=secret) as server:
        assert send(server.url) == first
    Commands(folder, {"database_url": url, "secret": secret}).run("move", "--to", tmp_path / "back")
    with started("serve", data_dir=str(tmp_path / "back")) as server:
        assert send(server.url) == first
    assert Commands(tmp_path / "back").row("secret", "show")["secret"] == secret


def test_a_short_secret_becomes_the_file_of_the_folder(folder: Path, url: str, tmp_path: Path) -> None:
    commands = Commands(folder, {"secret": "sixteen-letters!, the-one-before-it"})
    commands.run("move", "--to", url)
    commands.settings["database_url"] = url
    commands.run("move", "--to", tmp_path / "back")
    shown = Commands(tmp_path / "back").row("secret", "show")["secret"]
    assert configured(folder, secret=shown).secret == (b"sixteen-letters!", b"the-one-before-it")
    assert "the secret is set by LEADS_SECRET" in commands.refusal("secret", "show")


@pytest.mark.parametrize(
    "secret, found",
    [("some-other-secret-of-one", "is another one"), ("", "was not found")],
)
def test_a_move_back_without_the_servers_secret_is_refused(
    folder: Path, url: str, tmp_path: Path, secret: str, found: str
) -> None:
    to_postgres(folder, url, secret=SERVERS_SECRET)
    in_postgres(url, "UPDATE destination SET paused = false")
    with pytest.raises(settings.SettingError, match=f"the secret {found}: set LEADS_SECRET to that of"):
        to_folder(url, tmp_path / "back", secret=secret)
    assert in_postgres(url, "SELECT DISTINCT paused FROM destination") == [(False,)]
    assert in_postgres(url, MOVED_TO) == [(None,)]
    assert not content(tmp_path / "back").keys() & {"leads.db", "leads.secret", MOVING}
    to_folder(url, tmp_path / "back", secret=f"the-newest-of-the-servers, {SERVERS_SECRET}")


def test_a_secret_that_no_server_has_used_may_be_any(folder: Path, url: str, tmp_path: Path) -> None:
    to_postgres(folder, url)
    assert to_folder(url, tmp_path / "back", secret=SERVERS_SECRET).has_secret


def test_the_command_says_what_to_do_next(folder: Path, url: str, tmp_path: Path) -> None:
    commands = Commands(folder)
    status, said = commands.on_terminal("move", "--to", url, columns=400)
    assert status == 0, said
    assert "copying all rows ..." in said and "comparing all rows ..." in said
    assert "10 leads" in said and "each compared" in said and "outbox resume email" in said
    assert "correct-horse" not in said
    back = Commands(folder, {"database_url": url}).row("move", "--to", tmp_path / "back")
    assert back["to"] == str(tmp_path / "back") and back["tables"]["lead"]["rows"] == 10
    listed = Commands(tmp_path / "back").rows("lead", "list")
    assert len(listed) == 10


@pytest.mark.parametrize(
    "database, to, said",
    [
        ("", "elsewhere", "both places are folders: LEADS_DATABASE_URL is not set, so the source is "),
        (
            "postgresql://a:secret@h/b",
            "postgresql://c:secret@h/d",
            "both places are PostgreSQL: LEADS_DATABASE_URL",
        ),
        ("", "postgresql://leads@127.0.0.1:1/leads", "the database failed: PostgreSQL can't be reached: "),
    ],
)
def test_a_wrong_direction_is_refused(folder: Path, database: str, to: str, said: str) -> None:
    before = content(folder)
    commands = Commands(folder, {"database_url": database} if database else {})
    refusal = commands.refusal("move", "--to", to)
    assert refusal.startswith(said) and "secret" not in refusal
    assert content(folder)["leads.db"] == before["leads.db"]
    assert not (folder.parent / "elsewhere").exists()


@pytest.mark.parametrize(
    "to",
    [
        "",
        " ",
        "mysql://h/leads",
        "postgresql://a:s3cret@x@h/leads",
        "postgres//:x://",
        "postgresql:/leads:s3cret@h/t1",
        "postgresql:leads",
        "postgresql/leads",
        "Postgres-s3cret",
        "host=db password=s3cret",
        "dbname=s3cret",
        "leads:s3cret@h/t1",
        "//leads:s3cret@h/t1",
        "h:5432/s3cret",
        " postgresql:/s3cret",
        "pstgresql:/leads:s3cret%40h/t1",
    ],
)
def test_a_place_that_is_none_is_wrong_usage(folder: Path, to: str) -> None:
    done = Commands(folder).run("move", "--to", to, status=2)
    assert "error: argument --to: " in done.stderr and "s3cret" not in done.stderr
    assert content(folder.parent).keys() == {"data/leads.db"}


def test_a_move_needs_a_place_or_an_undo(folder: Path) -> None:
    assert Commands(folder).run("move", status=2).stderr.endswith("arguments --to --undo is required\n")
    assert "not allowed with" in Commands(folder).run("move", "--undo", "--to", "x", status=2).stderr


@pytest.mark.parametrize("to", ["./postgres@home", "../data/host=db", "/a:b@c", "back"])
def test_a_folder_may_have_any_name_behind_a_slash(to: str) -> None:
    assert _place(to) == Path(to)


def test_a_wrong_password_or_database_names_the_flag(folder: Path, url: str) -> None:
    missing = url.replace("leads_", "nowhere_")
    with_flag = Commands(folder).refusal("move", "--to", missing)
    assert "does not exist; make it with CREATE DATABASE" in with_flag and "or correct --to" in with_flag
    unreachable = Commands(folder).refusal("move", "--to", "postgresql://leads:x@127.0.0.1:1/leads")
    assert "or correct --to; nothing was changed" in unreachable
    read_only = url + ("&" if "?" in url else "?") + "options=-c%20default_transaction_read_only%3Don"
    primary = Commands(folder).refusal("move", "--to", read_only)
    assert "name the primary in --to" in primary
    assert "LEADS_DATABASE_URL" not in with_flag + unreachable + primary


ENDED = """
import os, sys
import server
from handlers.terminal import main
from models.storage.sqlite.moving import SqliteTarget

def end(target):
    for number in sys.argv[1].split(","):
        os.kill(os.getpid(), int(number))

SqliteTarget.seal = end
sys.exit(main(["move", "--to", sys.argv[2]], {}, lambda *arguments: []))
"""


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT], [signal.SIGHUP, signal.SIGTERM, signal.SIGINT]],
)
def test_a_move_that_is_ended_by_a_signal_leaves_no_copy(
    folder: Path, url: str, tmp_path: Path, signals: list[int]
) -> None:
    to_postgres(folder, url)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    variables = environment(data_dir=str(tmp_path / "server"), database_url=url) | {"PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", ENDED, ",".join(str(int(number)) for number in signals), tmp_path / "back"],
        env=variables,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert not [name for name in content(tmp_path / "back") if name.startswith("leads.db")]
    assert in_postgres(url, MOVED_TO) == [(None,)]


def test_the_guide_moves_there_and_back(tmp_path: Path, url: str) -> None:
    text = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    section = text.partition("\n### Moving to PostgreSQL and back\n")[2].partition("\n### ")[0]
    blocks = re.findall(r"(?ms)^```shell\n(.*?)^```$", section)
    assert len(blocks) == 4
    commands = Commands(tmp_path / "data")
    commands.leads({}, {})
    with started("serve", data_dir=str(commands.data_dir)):
        pass  # which makes the secret
    (tmp_path / "leads.toml").write_text('data_dir = "data"\n')
    script = "\n".join(["set -euo pipefail", *blocks])
    for old, new in (
        (".venv/bin/python server.py", f"{sys.executable} {ROOT / 'server.py'}"),
        ("postgresql://leads@db.example.com/leads", url.replace(":correct-horse@", "@")),
    ):
        assert old in script
        script = script.replace(old, new)
    variables = environment(config="leads.toml")
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 leads, ") == 3  # the backup, and both moves
    assert done.stdout.count("email: ") == 3 and "paused since all leads were moved here" in done.stdout
    assert len(Commands(tmp_path / "data-again").rows("lead", "list")) == 2
    assert (tmp_path / "data" / "leads.secret").read_text().splitlines()[1:] == (
        tmp_path / "data-again" / "leads.secret"
    ).read_text().splitlines()[1:]
