"""The database of a test's data folder: its SQLite file, or a PostgreSQL database if DATABASE=postgresql."""

import functools
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest
from postgresql import shared_cluster

from models import settings
from models.database import command_storage
from models.outbox.leases import take_over
from models.storage import rows
from models.storage.postgres import connection as postgres
from models.storage.postgres.migrations.migrate import migrate
from models.storage.sqlite import connection as sqlite

KIND = os.environ.get("DATABASE") or "sqlite"
if KIND not in ("sqlite", "postgresql"):
    raise pytest.UsageError(f"DATABASE is {KIND!r}; it can be sqlite or postgresql")
IS_POSTGRESQL = KIND == "postgresql"

# What the driver raises when storage fails.
STORAGE_FAILURE: type[Exception] = psycopg.OperationalError if IS_POSTGRESQL else apsw.IOError

used_folders: set[Path] = set()  # whose database the running test has asked for


def settings_of(data_dir: Path | str) -> dict[str, str]:
    """Return the settings of a server or command that uses this data folder and its database."""
    used_folders.add(Path(data_dir))
    given = {"data_dir": str(data_dir)}
    if IS_POSTGRESQL:
        given["database_url"] = _url_of(Path(data_dir))
    return given


@contextmanager
def opened(data_dir: Path | str) -> Iterator[None]:
    """Open the folder's database in this process, as a command does, for one transaction on the rows."""
    with command_storage(settings.load(settings_of(data_dir), environment={})), _atomic():
        yield


@contextmanager
def transaction() -> Iterator[None]:
    """A transaction on the database that a server has open in another thread of this process."""
    database: Any = postgres if IS_POSTGRESQL else sqlite
    rows.database.connect()
    try:
        with _atomic():
            yield
    finally:
        database.close_database(**({} if IS_POSTGRESQL else {"checkpoint": True}))


def query(data_dir: Path | str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own; return its rows. `?` stands for a parameter."""
    given = settings_of(data_dir)
    if IS_POSTGRESQL:
        with psycopg.connect(given["database_url"], autocommit=True) as connection:
            cursor = connection.execute(sql.replace("?", "%s").encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []
    with closing(apsw.Connection(str(Path(data_dir) / sqlite.FILE_NAME))) as file:
        return file.execute(sql, parameters).fetchall()


def take_over_seen(now: datetime) -> list[int]:
    """Look at the leases twice, as a server does, and take over what was over at both looks."""
    ids, over = take_over(set(), now)
    return ids + take_over(over, now)[0]


def values(data_dir: Path | str) -> set[bytes]:
    """Return each value of each row of each table."""
    names = "SELECT name FROM sqlite_schema WHERE type = 'table'"
    if IS_POSTGRESQL:
        names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    rows = [row for (name,) in query(data_dir, names) for row in query(data_dir, f'SELECT * FROM "{name}"')]
    return {value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row}


def contents(data_dir: Path | str) -> bytes:
    """Return SQLite's files, with what they hold of deleted rows, or all values in PostgreSQL's rows."""
    if IS_POSTGRESQL:
        return b"\n".join(values(data_dir))
    # In another process: closing the database's file in this one would drop SQLite's locks.
    files = [str(file) for file in Path(data_dir).iterdir() if file.is_file()]
    return subprocess.run(["cat", *files], capture_output=True, check=True).stdout


def limit_space(sizes: Sequence[int | None]) -> Sequence[int | None]:
    """An operation that lets the disk be full soon: after so many pages, or on PostgreSQL leads. None: never.

    The database itself then says that its disk is full.
    """
    execute = rows.database.execute_sql
    for size in sizes:
        if not IS_POSTGRESQL:
            (now,) = execute("PRAGMA page_count").fetchone()
            execute(f"PRAGMA max_page_count = {now + (10_000 if size is None else size)}")
        elif size is None:
            execute("DROP TRIGGER full_disk ON lead")
        else:
            execute(_FULL_DISK.format(size=size))
    return sizes


_FULL_DISK = """
CREATE OR REPLACE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF (SELECT count(*) FROM lead) > {size} THEN RAISE disk_full USING MESSAGE = 'no space left on device';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER full_disk AFTER INSERT ON lead EXECUTE FUNCTION full_disk();
"""


def _atomic() -> Any:
    # SQLite takes the write lock at once; a deferred transaction fails beside a server that writes.
    return rows.database.atomic(*([] if IS_POSTGRESQL else ["IMMEDIATE"]))


def release_all_of(root: Path) -> None:
    """Empty the databases of all data folders in this folder, for other tests."""
    root = root.resolve()
    for folder in [folder for folder in _taken if folder.is_relative_to(root)]:
        name = _taken.pop(folder)
        shared_cluster().query(_EMPTY, database=name)
        _free.append(name)


_taken: dict[Path, str] = {}  # databases of PostgreSQL, by their data folder
_free: list[str] = []


def _url_of(folder: Path) -> str:
    folder = folder.resolve()
    if folder not in _taken:
        _taken[folder] = _free.pop() if _free else _new_database()
    return shared_cluster().url(_taken[folder])


def _new_database() -> str:
    name = f"of_tests_{len(_taken) + len(_free)}"
    shared_cluster().create_database(name, _template())
    return name


@functools.cache
def _template() -> str:
    """Return the name of a database with all tables, and with copies of their first rows."""
    name = "template_of_tests"
    with psycopg.connect(shared_cluster().create_database(name), autocommit=True) as connection:
        migrate(connection)
    shared_cluster().query(_NOTE_FIRST_ROWS, database=name)
    return name


_NOTE_FIRST_ROWS = """
DO $$ DECLARE name text; BEGIN
    CREATE SCHEMA first_rows;
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('CREATE TABLE first_rows.%1$I AS TABLE public.%1$I', name);
    END LOOP;
    CREATE TABLE first_rows."first numbers" AS
        SELECT sequencename, COALESCE(last_value, 0) AS used FROM pg_sequences WHERE schemaname = 'public';
END $$
"""
# A tenth of what a new copy takes: PostgreSQL copies 300 files for it.
_EMPTY = """
DO $$ DECLARE name text; used bigint; BEGIN
    PERFORM pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();
    SET LOCAL session_replication_role = replica;  -- checks no foreign keys
    DROP TRIGGER IF EXISTS full_disk ON lead;
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('DELETE FROM public.%1$I', name);
        EXECUTE format('INSERT INTO public.%1$I SELECT * FROM first_rows.%1$I', name);
    END LOOP;
    FOR name, used IN SELECT * FROM first_rows."first numbers" LOOP
        PERFORM setval(format('public.%I', name), used + 1, false);
    END LOOP;
END $$
"""
