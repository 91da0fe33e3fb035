"""PostgreSQL under measurement: a cluster with fsync on, databases in it, and what a lead costs."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from load import Load, send_at_full_speed
from processes import ROOT, Process, leads_server, register_building

sys.path += [str(ROOT), str(ROOT / "tests")]

from postgresql import Cluster  # noqa: E402

WARM_UP_AND_LOAD = 1.25  # send_at_full_speed sends for a second before the four that it measures


@dataclass(frozen=True)
class Costs:
    """A load at full speed, and a lead's processor time in milliseconds: of the server, of PostgreSQL."""

    load: Load
    server_ms: float
    database_ms: float


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Run a PostgreSQL on this machine as it is installed, until the block is left: fsync is on."""
    with Cluster(fsync="on", max_wal_size="8GB", dynamic_shared_memory_type="posix") as cluster:
        yield cluster


@contextmanager
def server_on(cluster: Cluster, database: str, checkout: Path, data_dir: Path) -> Iterator[Process]:
    """Run the checkout's server on this database, made with the bench's building if there is none."""
    url = cluster.url(database)
    if not cluster.query("SELECT FROM pg_database WHERE datname = %s", database):
        cluster.create_database(database)
        register_building(checkout, data_dir, LEADS_DATABASE_URL=url)
    with leads_server(checkout, data_dir, LEADS_DATABASE_URL=url) as server:
        yield server


def measure_costs(server: Process, cluster: Cluster | None, connections: int, seconds: int) -> Costs:
    """Send leads at full speed, and measure what they cost. cluster: None for SQLite."""
    databases = cluster.processes if cluster else []
    before = _processor_ms([server.process.pid]), _processor_ms(databases)
    load = send_at_full_speed(server.url, connections, seconds)
    after = _processor_ms([server.process.pid]), _processor_ms(databases)
    leads = load.rate * seconds * WARM_UP_AND_LOAD
    return Costs(load, (after[0] - before[0]) / leads, (after[1] - before[1]) / leads)


def _processor_ms(processes: list[int]) -> float:
    """Return the processor time that these processes have taken, in milliseconds."""
    ticks = 0
    for process in processes:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        ticks += int(fields[11]) + int(fields[12])
    return 1e3 * ticks / os.sysconf("SC_CLK_TCK")


# As the server leaves the rows of leads whose mail was delivered.
_FILL = """
INSERT INTO customer (name, email, email_key, phone, phone_key, created_at)
    SELECT 'Renter ' || n, n || '@renter.example', md5(n::text) || '@renter.example',
        '+1' || (2000000000 + n), '+1' || (2000000000 + n), {instant} FROM generate_series(1, {leads}) n;
INSERT INTO lead (request_id, created_at, building_id, customer_id, sent_token, requestor_name,
        requestor_email, requestor_phone, message, slot, sent_slot, unit_preference, property_type, utm_data,
        sent_utm_data, listing_source, request_host, lead_source, sms_consent, sms_consent_at, sms_consent_ip,
        sms_consent_host)
    SELECT md5(n::text), {instant}, 1, n, 'bench', 'Renter ' || n, n || '@renter.example',
        '+1' || (2000000000 + n), 'Is it still free? I could come by on any evening of next week.',
        {instant}, '2026-12-01T10:00', '4B', 'listing', '{{"utm_source":"bench"}}', 'utm_source=bench',
        'zillow', '127.0.0.1', 'website', true, {instant}, '127.0.0.1', '127.0.0.1'
    FROM generate_series(1, {leads}) n;
INSERT INTO deal (lead_id, stage_id, created_at) SELECT n, 1, {instant} FROM generate_series(1, {leads}) n;
INSERT INTO delivery (lead_id, kind, state, attempts, settled_at)
    SELECT n, 'email', 'delivered', 1, {instant} FROM generate_series(1, {leads}) n;
INSERT INTO delivery_attempt (delivery_id, number, started_at, ended_at, outcome)
    SELECT n, 1, {instant}, {instant}, 'delivered' FROM generate_series(1, {leads}) n;
VACUUM ANALYZE;
CHECKPOINT
"""
_INSTANT = "to_char(timestamp '2026-01-01' + n * interval '1 second', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"


def fill(cluster: Cluster, database: str, leads: int) -> None:
    """Insert so many leads, each with a customer, a deal and a delivered mail, into the bench's database."""
    for statement in _FILL.format(leads=leads, instant=_INSTANT).split(";\n"):
        cluster.query(statement, database=database)
