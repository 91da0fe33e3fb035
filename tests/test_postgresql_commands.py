"""Commands about backups and the secret, on a PostgreSQL that servers share."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from command_line import Commands
from conftest import ServerHarness, StartHarness
from databases import IS_POSTGRESQL
from postgresql import PASSWORD, Cluster, binaries

from models.database_url import with_database
from models.secret import SecretKeys, read_keys, rotate_secret, setting_of
from models.settings import SettingError
from models.storage.postgres.restored import UNKNOWN_IDS

pytestmark = [
    pytest.mark.database,
    pytest.mark.skipif(not IS_POSTGRESQL, reason="the tests on PostgreSQL run it"),
]

ONE, TWO, THREE = "the-secret-of-one", "the-secret-of-two", "the-secret-of-three"
OTHER_SECRET = "the servers on this database have another secret"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(auth="scram-sha-256") as cluster:
        yield cluster


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    yield cluster.create_database("leads")
    cluster.drop_database("leads")
    cluster.drop_database("restored")


@pytest.fixture
def commands(tmp_path: Path, url: str) -> Commands:
    return Commands(tmp_path / "data", {"database_url": url})


def said(commands: Commands, *args: object) -> list[str]:
    """Run a command that is refused; return its lines, which hold no password."""
    done = commands.run(*args, status=1)
    assert done.stdout == "" and PASSWORD not in done.stderr
    return done.stderr.splitlines()


# ---- backups


def test_backup_commands_name_postgresql_s_own_programs(commands: Commands) -> None:
    for command, words in (
        (["create"], "its own programs make its backups. Run"),
        (["list"], "pgbackrest info"),
        (["verify", "leads.dump"], "run pg_restore --list leads.dump"),
        (["restore", "leads.dump"], "make a new, empty database, such as 'restored', and run"),
    ):
        first, *_ = said(commands, "backup", *command)
        assert first.startswith("leads: LEADS_DATABASE_URL names a PostgreSQL: ") and words in first
    assert not commands.data_dir.exists()


def test_backup_create_prints_the_command_on_a_line_of_its_own(commands: Commands, url: str) -> None:
    bare = url.replace(f":{PASSWORD}", "")
    assert said(commands, "backup", "create")[1] == f"    pg_dump --format=custom --file=leads.dump {bare}"
    assert "--file='my dump'" in said(commands, "backup", "create", "--output", "my dump")[1]
    assert len(said(commands, "backup", "create", "--output", "a\nb")) == 3


def test_backup_restore_names_another_database(commands: Commands, url: str, tmp_path: Path) -> None:
    new = with_database(url, "restored").replace(f":{PASSWORD}", "")
    lines = said(commands, "backup", "restore", "leads.dump")
    assert lines[1] == f"    pg_restore --exit-on-error --no-owner --dbname={new} leads.dump"
    assert new.endswith("/restored") and "'backup restored'" in lines[2]
    of_folder = tmp_path / "leads.db"
    of_folder.write_bytes(b"SQLite format 3\0")
    [line] = said(commands, "backup", "restore", of_folder)
    assert "is a backup of a data folder. Restore it without that setting, then 'move --to' it" in line


def test_dump_and_restore_as_the_commands_say(
    commands: Commands, cluster: Cluster, url: str, tmp_path: Path
) -> None:
    def do(*args: object) -> None:
        """Run what a `backup` command says."""
        program = re.search(
            r"(?m)(?:^    |run )(pg_\w+ .*?)(, |$)", "\n".join(said(commands, "backup", *args))
        )
        assert program is not None
        variables = {"PATH": f"{binaries()}:{os.defpath}", "PGPASSWORD": PASSWORD}
        subprocess.run(program[1], shell=True, check=True, cwd=tmp_path, env=variables)

    commands.run("building", "add", "--name", "Maple Court")
    do("create")
    do("verify", "leads.dump")
    cluster.create_database("restored")
    do("restore", "leads.dump")
    commands.settings["database_url"] = cluster.url("restored")
    assert commands.row("building", "list")["name"] == "Maple Court"


IDENTITIES = ("lead", "customer", "building", "delivery")


def newest_ids(url: str) -> dict[str, int]:
    with psycopg.connect(url) as connection:
        return {
            table: connection.execute(f"SELECT max(id) FROM {table}".encode()).fetchall()[0][0]
            for table in IDENTITIES
        }


async def lead_of_new_building(harness: ServerHarness, token: str) -> None:
    await harness.building(token)
    await harness.lead(token=token, requestor_email=f"{token}@renter.test")


async def test_C4_restored_database_gives_no_id_twice_and_mails_nothing(
    start_harness: StartHarness, commands: Commands, url: str
) -> None:
    harness = await start_harness(database_url=url, secret=ONE)
    await lead_of_new_building(harness, "maple")
    await harness.settled()
    before = newest_ids(url)
    commands.run("backup", "restored")
    await lead_of_new_building(harness, "oak")
    after = newest_ids(url)
    assert all(after[table] > before[table] + UNKNOWN_IDS for table in IDENTITIES)
    assert [row["state"] for row in await harness.settled() if row["id"] == after["delivery"]] == ["pending"]
    for kind in ("email", "june_homes"):
        assert "by a restore" in (await harness.destination(kind))["waits_because"]
    with psycopg.connect(url) as connection:
        noted = connection.execute("SELECT action FROM audit_entry ORDER BY id").fetchall()
    assert ("backup.restore",) in noted


def test_backup_restored_is_for_a_postgresql(tmp_path: Path) -> None:
    commands = Commands(tmp_path / "data", {"database_url": ""})
    commands.run("building", "add", "--name", "Maple Court")
    assert "this is for a PostgreSQL; 'backup restore' does it" in commands.refusal("backup", "restored")


# ---- the secret


async def is_refused(start_harness: StartHarness, url: str, secret: str) -> None:
    with pytest.raises(SettingError, match=OTHER_SECRET):
        await start_harness(database_url=url, secret=secret)


async def test_secret_of_two_rotations_ago_is_refused(start_harness: StartHarness, url: str) -> None:
    first = await start_harness(database_url=url)
    of_first = Commands(first.data_dir, {"database_url": url})
    keys = read_keys(first.data_dir)
    assert keys is not None
    old = setting_of(keys)
    await start_harness(database_url=url, secret=old)
    of_first.run("secret", "rotate")
    new = of_first.run("secret", "show").stdout.split(",")[0].strip()
    assert new != old
    await start_harness(database_url=url, secret=new)
    await is_refused(start_harness, url, old)


async def test_rotation_beside_a_running_server_is_noted_by_it(start_harness: StartHarness, url: str) -> None:
    first = await start_harness(database_url=url)
    rotate_secret(first.data_dir, first.clock.now())  # of a version that does not note it
    new = first.server._secret.keys().keys[0]
    await first.server._check_secret()
    second = await start_harness(database_url=url, secret=setting_of(SecretKeys((new,))))
    assert (await second.request("GET", "/readyz")).code == 200


async def test_adopted_secret_takes_the_place_of_the_other(
    start_harness: StartHarness, commands: Commands, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = await start_harness(database_url=url, secret=ONE)
    await is_refused(start_harness, url, TWO)
    assert "LEADS_SECRET is not set, and there is no leads.secret" in commands.refusal("secret", "adopt")
    commands.settings["secret"] = TWO
    assert "Start each of them again with it" in commands.run("secret", "adopt").stdout
    await first.server._check_secret()
    assert "the secret is not that of the database" in caplog.text
    second = await start_harness(database_url=url, secret=TWO)
    await is_refused(start_harness, url, ONE)
    await is_refused(start_harness, url, THREE)
    assert (await second.request("GET", "/readyz")).code == 200
    with psycopg.connect(url) as connection:
        noted = connection.execute("SELECT action, subject_kind, subject_id FROM audit_entry").fetchall()
    assert noted == [("secret.adopt", "installation", None)]


def test_secret_adopt_is_for_a_postgresql(tmp_path: Path) -> None:
    commands = Commands(tmp_path / "data", {"database_url": "", "secret": ONE})
    commands.run("building", "add", "--name", "Maple Court")
    assert "LEADS_DATABASE_URL is not set" in commands.refusal("secret", "adopt")
