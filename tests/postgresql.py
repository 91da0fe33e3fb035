"""PostgreSQL clusters of Debian's server programs, in temporary folders. `.ci/postgresql` installs them."""

import atexit
import functools
import hashlib
import os
import pwd
import re
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
import pytest
from free_ports import free_ports
from process_folder import ProcessFolder, signal_all

from models.storage.moving import copy_database
from models.storage.postgres.moving import postgres_target
from models.storage.sqlite.moving import sqlite_source

NOT_FOUND = "PostgreSQL not found; install it with .ci/postgresql"
SUPERUSER = "postgres"
ROLE, PASSWORD = "leads", "correct-horse"  # the owner of each database, which has no other right
START_SECONDS = 60
PORTS = 20  # that are tried
# mmap: files in the data folder. The default leaves files in /dev/shm after SIGKILL.
SETTINGS = {"fsync": "off", "max_connections": "100", "dynamic_shared_memory_type": "mmap"}


def binaries() -> Path | None:
    """Return the folder of the newest installed server programs, or None."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return max((file.parent for file in found), key=lambda path: float(path.parent.name), default=None)


class Cluster:
    """A running PostgreSQL on 127.0.0.1, and on a Unix socket in its folder. A block of `with` closes it.

    auth: of connections to 127.0.0.1: 'trust', or 'scram-sha-256' with PASSWORD.
    settings: of postgresql.conf. By default fsync is off.
    """

    def __init__(self, *, auth: str = "trust", **settings: str) -> None:
        programs = binaries()
        if programs is None:
            raise FileNotFoundError(NOT_FOUND)
        self.port = 0
        self._auth, self._settings = auth, SETTINGS | settings
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        self._standbys: list[str] = []
        # SIGQUIT is PostgreSQL's immediate shutdown.
        self._folder = ProcessFolder("postgresql-", programs, signal.SIGQUIT, _user())
        self.data = self._folder.path / "data"
        try:
            self._make_data()
            self.start()
            if not self.query("SELECT FROM pg_roles WHERE rolname = %s", ROLE):
                self.query(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return self._folder.log

    @property
    def processes(self) -> list[int]:
        """The ids of the server's processes."""
        return self._folder.processes()

    def start(self) -> None:
        """Start the server again, on the same port, and wait until it takes connections."""
        logged = 0
        for port in [self.port] * PORTS if self.port else free_ports(PORTS):
            options = ["-p", str(port), "-k", str(self._folder.path)]
            self._process = self._start("postgres", "-D", str(self.data), *options)
            if self._is_ready(self._process):
                self.port = port
                return
            refused, logged = self.log[logged:], len(self.log)
            if "could not create any TCP/IP sockets" not in refused:
                break
            time.sleep(0.1)
        raise RuntimeError(f"PostgreSQL did not start:\n{self.log[-2000:]}")

    def stop(self) -> None:
        """Stop the server as an operator would: connections are closed, transactions rolled back."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        self._process.wait(START_SECONDS)

    def kill(self) -> None:
        """End all of the server's processes by SIGKILL, at one moment."""
        assert self._process is not None
        memory = re.findall(r"(?m)^ *\d+ +(\d+)$", (self.data / "postmaster.pid").read_text())
        self.pause()  # so that the server starts no process meanwhile
        self._folder.kill()
        self._process.wait()
        for segment in memory:
            subprocess.run(["ipcrm", "--shmem-id", segment], check=True)

    def pause(self) -> None:
        """Stop all of the server's processes where they are; connections stay open. Undone by `resume`."""
        assert self._process is not None
        signal_all([self._process.pid], signal.SIGSTOP)
        signal_all(self.processes, signal.SIGSTOP)

    def resume(self) -> None:
        """Let the paused processes go on."""
        signal_all(self.processes, signal.SIGCONT)

    def close(self) -> None:
        """End the server whatever its state, and remove its folder."""
        self._folder.close()
        if self._process is not None:
            self._process.wait()

    def standby(self, name: str, **settings: str) -> "Cluster":
        """Return a new standby: from now on it has each commit before the commit returns.

        name: of letters and _, as replication slots are. With several, the first made one is synchronous.
        """
        standby = Standby(self, name, **self._settings | settings)
        try:
            self._standbys.append(name)
            names = ", ".join(self._standbys)
            self.query(f"ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 ({names})'")
            self.query("SELECT pg_reload_conf()")
            states = "SELECT FROM pg_stat_replication WHERE application_name = %s AND sync_state <> 'async'"
            _wait_for(lambda: self.query(states, name), f"{name} is not synchronous")
            self.query("CHECKPOINT")  # the checkpointer has applied the setting, too, when this returns
        except BaseException:
            standby.close()
            raise
        return standby

    def promote(self) -> None:
        """Make a standby a primary, and wait until it is one."""
        assert self.query("SELECT pg_promote()") == [(True,)]

    def url(self, database: str, *ports: int) -> str:
        """Return the setting `database_url`, for an ordinary role.

        ports: in place of the cluster's own. Of several, the one of the primary is used.
        """
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports or [self.port])
        query = "?target_session_attrs=read-write" if len(ports) > 1 else ""
        return f"postgresql://{ROLE}:{PASSWORD}@{hosts}/{database}{query}"

    def create_database(self, name: str, template: str = "template0") -> str:
        """Copy an empty database, or another one that nobody uses; return the new one's URL."""
        self.query(f'CREATE DATABASE "{name}" OWNER {ROLE} TEMPLATE "{template}" STRATEGY FILE_COPY')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database if it exists, and close the connections to it."""
        self.query(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def query(self, sql: str, *parameters: Any, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as superuser, in a connection of its own, and commit it. Return its rows."""
        with psycopg.connect(
            host=str(self._folder.path), port=self.port, user=SUPERUSER, dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(sql.encode(), parameters or None)
            return cursor.fetchall() if cursor.description is not None else []

    def _make_data(self) -> None:
        auth = ["--auth-local=trust", f"--auth-host={self._auth}"]
        self._run("initdb", "-D", str(self.data), "-U", SUPERUSER, "--no-sync", "-EUTF8", "--locale=C", *auth)
        self._write_settings()

    def _write_settings(self) -> None:
        settings = {"listen_addresses": "127.0.0.1", **self._settings}
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        return self._folder.start([self._programs / program, *arguments], {"LC_ALL": "C", "PATH": os.defpath})

    def _run(self, program: str, *arguments: str) -> None:
        if self._start(program, *arguments).wait() != 0:
            raise RuntimeError(f"{program} failed:\n{self.log[-2000:]}")

    def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the server takes connections. Return False if it ends instead."""
        status_file = self.data / "postmaster.pid"

        def is_decided() -> bool:
            if process.poll() is not None:
                return True
            lines = status_file.read_text().splitlines() if status_file.exists() else []
            return lines[:1] == [str(process.pid)] and lines[7:] != [] and lines[7].strip() == "ready"

        _wait_for(is_decided, "PostgreSQL takes no connections")
        return process.poll() is None


class Standby(Cluster):
    """A copy of a running cluster, which then replicates it."""

    def __init__(self, primary: Cluster, name: str, **settings: str) -> None:
        self._source = f"host={primary._folder.path} port={primary.port} user={SUPERUSER}"
        self._name = name
        super().__init__(**settings)

    def _make_data(self) -> None:
        source = f"{self._source} application_name={self._name}"
        options = ["--checkpoint=fast", "--no-sync", "--write-recovery-conf", "--create-slot"]
        self._run("pg_basebackup", "-D", str(self.data), "-d", source, "-S", self._name, *options)
        self._write_settings()


@functools.cache
def shared_cluster() -> Cluster:
    """Return the one cluster of this process, which is closed with it. Without PostgreSQL, skip the test."""
    if binaries() is None:
        pytest.skip(NOT_FOUND)
    cluster = Cluster()
    atexit.register(cluster.close)
    return cluster


_names: dict[Path, str] = {}  # of the databases in the shared cluster, by their data folder


def database_url(folder: Path) -> str:
    """Return the URL of the database that belongs to this data folder; create the database at first use."""
    cluster, folder = shared_cluster(), folder.resolve()
    if folder not in _names:
        name = "leads_" + hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        cluster.create_database(name)
        _names[folder] = name
    return cluster.url(_names[folder])


def copy_folder(folder: Path, url: str) -> None:
    """Copy every row of a data folder into an empty database. A schema that is not the newest is upgraded."""
    with postgres_target(url) as target, sqlite_source(folder) as source:
        copy_database(source, target, lambda step: None)
        target.seal()
        target.commit()


def dump(url: str) -> str:
    """Return a database as SQL that any role can run. The same database is always the same text."""
    programs = binaries()
    assert programs is not None
    options = ["--no-owner", "--no-privileges", "--inserts"]
    done = subprocess.run(
        [programs / "pg_dump", *options, "-d", url], capture_output=True, text=True, check=True
    )
    # Versions, and what psql alone understands, with a random key.
    return re.sub(r"(?m)^(-- Dumped (from|by) .*|\\(un)?restrict .*)\n", "", done.stdout)


def load(url: str, text: str) -> None:
    """Run what `dump` returned in an empty database."""
    with psycopg.connect(url) as connection:
        connection.execute(text.encode())


def forget(folder: Path) -> None:
    """Drop the database of this data folder, if there is one."""
    if name := _names.pop(folder.resolve(), None):
        shared_cluster().drop_database(name)


def drop_all_of(root: Path) -> None:
    """Drop the databases of all data folders in this folder."""
    root = root.resolve()
    for folder in [folder for folder in _names if folder.is_relative_to(root)]:
        forget(folder)


def _user() -> str | None:
    """Return the user that runs the server: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in users else "nobody"


def _wait_for(condition: Any, otherwise: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(0.01)
