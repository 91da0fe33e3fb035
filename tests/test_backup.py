"""Backups: `backup create`, `list` and `verify`, the checksum, permissions and damaged files."""

import asyncio
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from command_line import NOW, Commands
from conftest import ServerHarness
from test_process import damage_header, damage_inside, make_foreign, make_newer

from models.clock import Clock
from models.storage import DatabaseUnusable
from models.storage.sqlite.backup import create_backup
from models.storage.sqlite.backup_files import checksum_file, new_path
from models.storage.sqlite.migrations.steps import NEWEST

pytestmark = pytest.mark.sqlite("backups of PostgreSQL are made by its own programs")

LONG = "m" * 10_000


def create(commands: Commands, *args: object) -> Path:
    """Make a backup; return its path."""
    return Path(commands.row("backup", "create", *args)["path"])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def content(folder: Path) -> dict[str, bytes]:
    """Return the content of each file in the folder, by relative path, without lock files."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix != ".lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def query(file: Path, sql: str) -> list[tuple[object, ...]]:
    """Return the rows that another program reads from a closed database."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def test_backup_is_complete_and_reports_its_content(commands: Commands) -> None:
    commands.leads({}, {"message": LONG}, {"email": "bob@renter.test", "phone": None})
    made = commands.row("backup", "create")
    file = Path(made["path"])
    assert list(made) == ["path", "bytes", "schema", "leads", "newest_lead_at", "sha256"]
    assert (made["schema"], made["leads"], made["bytes"]) == (NEWEST, 3, file.stat().st_size)
    assert made["newest_lead_at"] == "2026-11-23T15:00:00.000000Z"
    assert query(file, "PRAGMA integrity_check") == [("ok",)]
    assert query(file, "SELECT length(message) FROM lead WHERE message IS NOT NULL") == [(10_000,)]
    assert file.read_bytes()[18:20] == b"\1\1"  # not in WAL mode
    assert commands.row("backup", "verify", file) == made
    assert sorted(file.parent.iterdir()) == [file, checksum_file(file)]  # reading leaves no file


def test_backup_is_readable_by_its_owner_only(commands: Commands) -> None:
    commands.leads({})
    for file in (create(commands), create(commands, "--output", "elsewhere/deeper/copy.db")):
        file = commands.data_dir.parent / file
        assert (mode(file), mode(checksum_file(file)), mode(file.parent)) == (0o600, 0o600, 0o700)
    assert mode(commands.data_dir.parent / "elsewhere") == 0o700


def test_backup_checksum_is_accepted_by_sha256sum(commands: Commands) -> None:
    commands.leads({})
    file = create(commands)
    check = ["sha256sum", "--strict", "-c", checksum_file(file).name]
    done = subprocess.run(check, cwd=file.parent, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{file.name}: OK\n")


def test_backups_are_listed_the_newest_first(commands: Commands) -> None:
    assert "There are no backups in" in commands.run("backup", "list").stdout
    commands.leads({})
    folder = commands.data_dir / "backups"
    made = create(commands)
    for name in (
        "leads-nightly-20250102T030405Z.db",
        "leads-before-schema-7-20250103T030405Z.db",
        "leads-nightly-20250104T030405Z.db.partial",
        "leads-nightly-20251399T030405Z.db",
        "leads-nightly-20250104T030405Z.db.sha256",
        "leads.db",
        "notes.txt",
    ):
        (folder / name).write_bytes(b"seven b")
    rows = commands.rows("backup", "list")
    assert [row["why"] for row in rows] == ["manual", "before-schema-7", "nightly"]
    assert rows[0]["path"] == str(made) and rows[0]["bytes"] == made.stat().st_size
    assert rows[1]["made_at"] == "2025-01-03T03:04:05.000000Z" and rows[1]["bytes"] == 7
    assert commands.run("backup", "list").stdout.splitlines()[1].endswith(str(made))


def test_the_backup_folder_is_a_setting(commands: Commands) -> None:
    commands.leads({})
    commands.settings["backup_dir"] = str(commands.data_dir.parent / "other disk")
    file = create(commands)
    assert str(file.parent) == commands.settings["backup_dir"]
    assert [row["path"] for row in commands.rows("backup", "list")] == [str(file)]
    assert not (commands.data_dir / "backups").exists()


def test_a_backup_never_overwrites(commands: Commands) -> None:
    commands.leads({})
    file = commands.data_dir.parent / "copy.db"
    file.write_bytes(b"something dear")
    said = commands.refusal("backup", "create", "--output", file)
    assert said == f"{file} is there already; a backup is never overwritten"
    assert content(file.parent)["copy.db"] == b"something dear"
    assert not checksum_file(file).exists()


def test_concurrent_backups_use_different_files(commands: Commands) -> None:
    commands.leads({})
    file = commands.data_dir.parent / "copy.db"
    partial = file.with_name("copy.db.partial")
    partial.write_bytes(b"half of it")
    said = commands.refusal("backup", "create", "--output", file)
    assert said == f"{partial} is there: copy.db is being made, or that was cut off; then remove it"
    assert partial.read_bytes() == b"half of it"
    now = Clock().now()
    first = new_path(commands.data_dir, file.parent, "manual", now)
    first.with_name(first.name + ".partial").write_bytes(b"half of it")
    second = new_path(commands.data_dir, file.parent, "manual", now)
    assert second.name == first.name.replace(".db", "-2.db")


def test_backup_is_refused_unless_disk_space_remains_for_leads(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.leads({})
    monkeypatch.setattr("models.storage.sqlite.backup.SPARE_BYTES", 2**62)  # more than any disk has
    file = commands.data_dir.parent / "copy.db"
    with pytest.raises(DatabaseUnusable, match="a backup takes .* make room, or give another"):
        create_backup(commands.data_dir, file)
    assert not list(file.parent.glob("copy.db*"))


def test_backup_without_a_database_is_refused(commands: Commands) -> None:
    assert commands.refusal("backup", "create") == f"there is no leads.db in {commands.data_dir}; " + (
        "give --data-dir"
    )
    assert not commands.data_dir.exists()


def test_backup_on_a_full_disk_leaves_no_file(commands: Commands) -> None:
    commands.leads(*({"message": LONG} for _ in range(30)))
    before = content(commands.data_dir)
    command, variables = commands.arguments("backup", "create")
    # A file may have 100 KiB; the system then refuses to write more, as a full disk does.
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 100; exec "$@"', "bash", *command],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"leads: copying {commands.data_dir}/leads.db to {commands.data_dir}/backups failed: disk I/O error; "
        "see that both disks are well, and have room\n"
    )
    assert list((commands.data_dir / "backups").iterdir()) == []
    assert content(commands.data_dir)["leads.db"] == before["leads.db"]
    assert create(commands).exists()


def test_damaged_database_is_not_backed_up(commands: Commands) -> None:
    commands.leads(*({"message": LONG} for _ in range(3)))
    damage_inside(commands.data_dir / "leads.db")
    said = commands.refusal("backup", "create")
    assert ".partial is damaged: " in said or "malformed" in said
    assert list((commands.data_dir / "backups").iterdir()) == []


def test_invalid_backup_path_is_refused_in_one_line(commands: Commands) -> None:
    commands.leads({})
    (commands.data_dir.parent / "file").write_text("no folder")
    assert "file" in commands.refusal("backup", "create", "--output", "file/copy.db")


async def test_backup_of_a_running_server_is_consistent(
    harness: ServerHarness,
) -> None:
    for _ in range(50):
        await harness.lead(token="maple", message=LONG)
    commands = Commands(harness.data_dir)
    making = asyncio.ensure_future(asyncio.to_thread(commands.row, "backup", "create"))
    taken = 50
    while not making.done():
        taken = await harness.lead(token="maple", message=LONG)
    made = await making
    assert 50 <= made["leads"] <= taken
    file = Path(made["path"])
    assert query(file, "SELECT max(id) FROM lead") == [(made["leads"],)]  # no lead that came later, and
    assert query(file, "SELECT count(*) FROM deal") == [(made["leads"],)]  # none of them by halves
    assert query(file, "SELECT count(*) FROM delivery WHERE kind = 'email'") == [(made["leads"],)]
    assert await harness.lead(token="maple") == taken + 1


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup; tests use copies of it."""
    commands = Commands(tmp_path_factory.mktemp("good") / "data")
    commands.leads({"message": LONG}, {"message": "a message that is looked for"})
    return create(commands)


@pytest.fixture
def copied(good: Path, tmp_path: Path) -> tuple[Commands, Path]:
    """A copy of the backup and its checksum, and commands on an empty data folder."""
    file = tmp_path / "away" / good.name
    file.parent.mkdir()
    shutil.copyfile(good, file)
    shutil.copyfile(checksum_file(good), checksum_file(file))
    return Commands(tmp_path / "data"), file


def flip_a_letter(file: Path) -> None:
    stored = file.read_bytes()
    assert b"that is looked for" in stored
    file.write_bytes(stored.replace(b"that is looked for", b"that is cooked for"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5_000])


def cut_at_a_page(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8_192])
    checksum_file(file).unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")
    checksum_file(file).unlink()


def orphan_rows(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DELETE FROM customer")
        connection.commit()
    checksum_file(file).unlink()


def swap_checksum(file: Path) -> None:
    checksum_file(file).write_text(f"{'0' * 64}  {file.name}\n")


def spoil_checksum(file: Path) -> None:
    checksum_file(file).write_bytes(b"\xff\xfe not a checksum")


def copy_alive(file: Path) -> None:
    """Replace the backup by a `cp` of a live database: its file, and a WAL with newer pages."""
    checksum_file(file).unlink()
    live = file.with_name("live.db")
    file.rename(live)
    with closing(sqlite3.connect(live)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("UPDATE lead SET message = 'in the journal alone'")
        connection.commit()
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{live}{suffix}", f"{file}{suffix}")


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def without_checksum(damage: Callable[[Path], None]) -> Callable[[Path], None]:
    def damage_both(file: Path) -> None:
        damage(file)
        checksum_file(file).unlink()

    damage_both.__name__ = damage.__name__
    return damage_both


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (flip_a_letter, "{file} is damaged: it is not what {name}.sha256 says it was"),
        (cut, "{file} is damaged: it is not what {name}.sha256 says it was"),
        (swap_checksum, "{file} is damaged: it is not what {name}.sha256 says it was"),
        (spoil_checksum, "{file}.sha256 holds no checksum; if {name} is to be trusted, remove it"),
        (cut_at_a_page, "{file} is damaged: "),
        (without_checksum(damage_header), "{file} is damaged: file is not a database"),
        (without_checksum(damage_inside), "{file} is damaged: "),
        (empty, "{file} is no backup of this program's database"),
        (without_checksum(make_foreign), "{file} is no backup of this program's database"),
        (without_checksum(make_newer), f"{{file}} has schema 99, newer than this program's {NEWEST}; "),
        (orphan_rows, "{file} is damaged: rows in it belong to rows that are not there"),
        (copy_alive, "{file} is no backup: it has a journal, {name}-wal, beside it"),
        (without_checksum(Path.unlink), "{file}: No such file or directory"),
        (make_folder, "{file}: Is a directory"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_backup_is_refused_and_left_unchanged(
    copied: tuple[Commands, Path], damage: Callable[[Path], None], said: str
) -> None:
    commands, file = copied
    damage(file)
    before = content(file.parent)
    refusal = commands.refusal("backup", "verify", file)
    assert refusal.startswith(said.format(file=file, name=file.name))
    assert content(file.parent) == before
    assert not commands.data_dir.exists()  # verify needs no database


def test_backup_without_checksum_is_verified_with_a_note(copied: tuple[Commands, Path]) -> None:
    commands, file = copied
    checksum_file(file).unlink()
    done = commands.run("backup", "verify", file)
    assert done.stdout == f"{file} can be read: 2 leads, the newest of {NOW:%Y-%m-%dT%H:%M:%S}.000000Z.\n"
    assert done.stderr == (
        f"note: there is no {file.name}.sha256 beside it, so a changed letter would not be seen\n"
    )
    flip_a_letter(file)
    assert commands.row("backup", "verify", file)["sha256"] is None


def test_backup_on_a_read_only_disk_is_verified(copied: tuple[Commands, Path]) -> None:
    commands, file = copied
    for path, bits in ((file, 0o400), (checksum_file(file), 0o400), (file.parent, 0o500)):
        path.chmod(bits)
    try:
        assert commands.row("backup", "verify", file)["leads"] == 2
    finally:
        file.parent.chmod(0o700)
