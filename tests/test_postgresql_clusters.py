"""The PostgreSQL clusters of the tests."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import postgresql
import psycopg
import pytest
from free_ports import free_ports
from postgresql import (
    NOT_FOUND,
    PASSWORD,
    Cluster,
    binaries,
    database_url,
    drop_all_of,
    forget,
    shared_cluster,
)

pytestmark = pytest.mark.skipif(binaries() is None, reason=NOT_FOUND)

KILLED = """
import os, signal
from postgresql import Cluster
cluster = Cluster()
cluster.pause()
print(cluster.data, *cluster.processes, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as cluster:
        yield cluster


def add_row(url: str, number: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS numbers (number int)")
        connection.execute("INSERT INTO numbers VALUES (%s)", [number])


def rows(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM numbers ORDER BY number")]


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


def are_gone(processes: list[int]) -> bool:
    """True if these processes have ended. One that was not waited for has no program any more."""
    return not any(Path(f"/proc/{process}/exe").exists() for process in processes)


def test_standby_takes_over_with_every_commit(cluster: Cluster) -> None:
    cluster.create_database("leads")
    with cluster.standby("second") as standby:
        url = cluster.url("leads", cluster.port, standby.port)
        for number in range(100):
            add_row(url, number)
        cluster.kill()
        standby.promote()
        add_row(url, 100)
        assert rows(url) == list(range(101))


def test_commit_waits_for_the_standby(cluster: Cluster) -> None:
    url = cluster.create_database("leads")
    add_row(url, 1)
    with cluster.standby("second") as standby, ThreadPoolExecutor() as threads:
        standby.pause()
        adding = threads.submit(add_row, url, 2)
        until(lambda: cluster.query("SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
        assert rows(url) == [1]
        standby.resume()
        adding.result()
        assert rows(url) == [1, 2]


@pytest.mark.parametrize("end", [Cluster.stop, Cluster.kill])
def test_started_again_it_has_its_url_and_rows(cluster: Cluster, end: Callable[[Cluster], None]) -> None:
    url = cluster.create_database("leads")
    add_row(url, 1)
    processes = cluster.processes
    end(cluster)
    assert are_gone(processes)
    with pytest.raises(psycopg.OperationalError):
        rows(url)
    cluster.start()
    assert rows(url) == [1]


def test_port_in_use_is_not_taken(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = [cluster.port, *free_ports(1)]
    monkeypatch.setattr(postgresql, "free_ports", lambda count: offered)
    with Cluster() as other:
        assert other.port == offered[1]


def test_password_is_asked_for_with_scram() -> None:
    with Cluster(auth="scram-sha-256", max_connections="20") as cluster:
        url = cluster.create_database("leads")
        with psycopg.connect(url) as connection:
            shown = connection.execute("SHOW max_connections").fetchone()
            assert shown == ("20",)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url.replace(PASSWORD, "wrong"))


@pytest.mark.parametrize("is_killed", [False, True])
def test_closed_cluster_leaves_nothing(is_killed: bool) -> None:
    with Cluster() as cluster:
        processes, folder = cluster.processes, cluster.data.parent
        assert processes
        if is_killed:
            cluster.kill()
    assert are_gone(processes)
    assert not folder.exists()


def test_killed_tests_leave_nothing() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    said, _ = program.communicate()
    assert program.returncode == -signal.SIGKILL
    data, *processes = said.split()
    assert processes
    until(lambda: are_gone([int(process) for process in processes]))
    until(lambda: not Path(data).parent.exists())


def test_data_folder_keeps_its_database_until_it_is_forgotten(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    add_row(database_url(first), 1)
    assert rows(database_url(tmp_path / "second" / ".." / "first")) == [1]
    assert database_url(second) != database_url(first)
    forget(first)
    forget(first)
    with pytest.raises(psycopg.errors.UndefinedTable):
        rows(database_url(first))
    with psycopg.connect(
        database_url(second)
    ):  # a server that still runs keeps no database from being dropped
        drop_all_of(tmp_path)
    assert not shared_cluster().query("SELECT FROM pg_database WHERE datname LIKE 'leads_%'")
