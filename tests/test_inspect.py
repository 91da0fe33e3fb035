"""Inspection of a database file: each problem is found, and no file is made or changed."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest
from test_process import damage_header, damage_inside, make_foreign, make_newer

from models.storage.sqlite.connection import FILE_NAME, close_database, database
from models.storage.sqlite.folder import open_database
from models.storage.sqlite.inspect import (
    FOREIGN_KEY_CHECK,
    INTEGRITY_CHECK,
    QUICK_CHECK,
    RESTORING,
    Inspection,
    Problem,
    inspect,
)
from models.storage.sqlite.migrations.steps import NEWEST

pytestmark = pytest.mark.sqlite("it is about the file")

CHECKS = (QUICK_CHECK, INTEGRITY_CHECK, FOREIGN_KEY_CHECK)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without leads, closed."""
    folder = tmp_path_factory.mktemp("inspected")
    open_database(folder)
    close_database(checkpoint=True)
    return folder / FILE_NAME


@pytest.fixture
def path(empty_database: Path, tmp_path: Path) -> Path:
    """The only file of a data folder."""
    path = tmp_path / "data" / FILE_NAME
    path.parent.mkdir()
    return Path(shutil.copyfile(empty_database, path))


def files(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Return the time of change and the content of each file in a folder."""
    return {
        file.name: (file.stat().st_mtime_ns, file.read_bytes() if os.access(file, os.R_OK) else None)
        for file in folder.rglob("*")
        if file.is_file()
    }


def inspect_at_rest(path: Path) -> Inspection:
    """Inspect with all checks; assert that no file was made or changed."""
    before = files(path.parent.parent)
    inspection = inspect(path, CHECKS)
    assert files(path.parent.parent) == before
    return inspection


def test_a_whole_database_has_no_problem(path: Path) -> None:
    assert inspect_at_rest(path) == Inspection(path, schema=NEWEST)


def test_no_file_is_no_problem(path: Path) -> None:
    path.unlink()
    assert inspect_at_rest(path) == Inspection(path)
    path.parent.rmdir()
    assert inspect_at_rest(path) == Inspection(path)


def test_an_empty_file_has_schema_0(path: Path) -> None:
    path.write_bytes(b"")
    assert inspect_at_rest(path) == Inspection(path, schema=0)


def begin_a_restore(path: Path) -> None:
    path.with_name(RESTORING).write_bytes(b"")


def make_folder_a_file(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()
    path.parent.write_bytes(b"")


def leave_the_wal_alone(path: Path) -> None:
    path.rename(path.with_name(path.name + "-wal"))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def break_references(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(
            "INSERT INTO building_token (building_id, token, created_at) VALUES (99, 'x', 'y')"
        )
        connection.execute("PRAGMA journal_mode = delete").get  # so that closing leaves the file alone


@pytest.mark.parametrize(
    ("damage", "problem", "schema"),
    [
        (begin_a_restore, Problem.HALF_RESTORED, None),
        (make_folder_a_file, Problem.NOT_A_FOLDER, None),
        (leave_the_wal_alone, Problem.ORPHAN_WAL, None),
        (make_folder, Problem.NO_ACCESS, None),
        (make_foreign, Problem.FOREIGN, None),
        (make_newer, Problem.NEWER, 99),
        (damage_header, Problem.CORRUPT, None),
        (break_references, Problem.BROKEN_REFERENCES, NEWEST),
    ],
)
def test_each_problem_is_found(
    path: Path, damage: Callable[[Path], None], problem: Problem, schema: int | None
) -> None:
    damage(path)
    inspection = inspect_at_rest(path)
    assert (inspection.problem, inspection.schema) == (problem, schema)


def test_a_damaged_header_is_described_by_sqlite(path: Path) -> None:
    damage_header(path)
    assert inspect_at_rest(path).detail == "file is not a database"


@pytest.mark.parametrize("check", [QUICK_CHECK, INTEGRITY_CHECK])
def test_damage_inside_is_found_by_either_check(path: Path, check: str) -> None:
    damage_inside(path)
    inspection = inspect(path, [check])
    assert inspection.problem is Problem.CORRUPT
    assert inspection.detail and "\n" not in inspection.detail
    assert [file.name for file in path.parent.iterdir()] == [FILE_NAME]


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read and write a file whatever its mode is")
@pytest.mark.parametrize("mode", [0o000, 0o200, 0o400])
def test_a_file_without_access_is_a_problem(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert inspect_at_rest(path) == Inspection(path, Problem.NO_ACCESS)


def test_a_locked_database_is_unreadable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.storage.sqlite.inspect.BUSY_TIMEOUT_SECONDS", 0)
    with closing(apsw.Connection(str(path))) as other:
        other.execute("PRAGMA locking_mode = exclusive").get
        other.execute("BEGIN EXCLUSIVE")
        inspection = inspect(path, CHECKS)
    assert (inspection.problem, inspection.detail) == (Problem.UNREADABLE, "database is locked")


def test_an_interrupted_creation_is_noted(path: Path) -> None:
    path.write_bytes(b"")
    path.with_name(path.name + "-journal").write_bytes(b"")
    assert inspect_at_rest(path) == Inspection(path, schema=0, creation_interrupted=True)


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Have the database open, with rows in its WAL."""
    open_database(path.parent)
    try:
        database.execute_sql("UPDATE pipeline_stage SET name = name || ' changed'")
        yield
    finally:
        close_database(checkpoint=True)


def test_a_database_in_use_is_inspected_with_its_wal(path: Path) -> None:
    with in_use(path):
        before = sorted(file.name for file in path.parent.iterdir())
        assert f"{FILE_NAME}-wal" in before
        assert inspect(path, CHECKS) == Inspection(path, schema=NEWEST)
        assert sorted(file.name for file in path.parent.iterdir()) == before
