"""Start the program for a fault run: on a disk that fails on order, with a mutant, by a clock that is moved.

Environment: FAULT_FOLDER (orders, record and clock), FAULT_DISK ("plain" or "recorded"), FAULT_MUTANT (its
name), FAULT_RETRY_SECONDS (the first retry delay), FAULT_CHECKPOINT_PAGES, FAULT_LOG_BYTES (that may wait for
the log's reader), FAULT_LEASE_SECONDS (of a claim), FAULT_STRANGERS (if set, only 127.0.0.1 is local). Every
address of this machine is local otherwise, and a local client may hold any number of connections, as a proxy
may. So no client of a run would have a share of them.
"""

import os
import runpy
import sys
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

import apscheduler.executors.base  # noqa: E402
import apscheduler.schedulers.base  # noqa: E402
from disk import Disk  # noqa: E402
from mutants import apply_mutant  # noqa: E402

import handlers.background_file  # noqa: E402
import handlers.source_address  # noqa: E402
import jobs.leases  # noqa: E402
import models.outbox.claims  # noqa: E402
import models.outbox.leases  # noqa: E402
import models.outbox.outcomes  # noqa: E402
import models.storage.sqlite.wal  # noqa: E402
from handlers.api.leads import LeadsHandler  # noqa: E402
from models.clock import Clock  # noqa: E402
from models.setting_values import parse_networks  # noqa: E402

CLOCK = "clock"  # a file in the folder: the seconds by which the time of day is moved


def move_clock(folder: Path) -> None:
    """Move the time of day of the program, and of its scheduler, by the seconds in the file."""

    class MovedDatetime(datetime):
        @classmethod
        def now(cls, zone: tzinfo | None = None) -> "MovedDatetime":
            try:
                by = float((folder / CLOCK).read_text() or 0)
            except FileNotFoundError:
                by = 0.0
            moved = datetime.now(zone) + timedelta(seconds=by)
            return cls.fromtimestamp(moved.timestamp(), zone)

    setattr(apscheduler.schedulers.base, "datetime", MovedDatetime)
    setattr(apscheduler.executors.base, "datetime", MovedDatetime)
    import models.clock

    setattr(models.clock, "datetime", MovedDatetime)
    assert Clock().now()


def shorten_leases(seconds: float) -> None:
    """Let the leases of claims last this long, and be looked at as often as is due."""
    lease = timedelta(seconds=seconds)
    jobs.leases.LOOK_SECONDS *= lease / models.outbox.claims.LEASE
    jobs.leases.LEASE_NS = int(seconds * 1e9)
    for module in (models.outbox.claims, models.outbox.leases):
        setattr(module, "LEASE", lease)


def record_answers(disk: Disk) -> None:
    """Append each 201 to the record before its first byte is sent."""
    write_json = LeadsHandler.write_json

    def recorded(self: LeadsHandler, status: int, body: object) -> None:
        if status == 201 and isinstance(body, dict):
            disk.note("answered", body["id"])
        write_json(self, status, body)

    setattr(LeadsHandler, "write_json", recorded)


if __name__ == "__main__":
    folder = Path(os.environ["FAULT_FOLDER"])
    if os.environ.get("FAULT_DISK"):
        disk = Disk(folder, record=os.environ["FAULT_DISK"] == "recorded")
        disk.count_system_calls()
        record_answers(disk)
    if os.environ.get("FAULT_RETRY_SECONDS"):
        first = timedelta(seconds=float(os.environ["FAULT_RETRY_SECONDS"]))
        models.outbox.outcomes.RETRY_DELAYS = (first, *models.outbox.outcomes.RETRY_DELAYS[1:])
    if os.environ.get("FAULT_CHECKPOINT_PAGES"):
        models.storage.sqlite.wal.CHECKPOINT_PAGES = int(os.environ["FAULT_CHECKPOINT_PAGES"])
    if os.environ.get("FAULT_LOG_BYTES"):
        handlers.background_file.MAX_BYTES = int(os.environ["FAULT_LOG_BYTES"])
    if os.environ.get("FAULT_STRANGERS"):
        handlers.source_address.LOCAL_NETWORKS = parse_networks("127.0.0.1")
    if os.environ.get("FAULT_LEASE_SECONDS"):
        shorten_leases(float(os.environ["FAULT_LEASE_SECONDS"]))
    move_clock(folder)
    if os.environ.get("FAULT_MUTANT"):
        apply_mutant(os.environ["FAULT_MUTANT"])
    os.chdir(ROOT)
    runpy.run_path("server.py", run_name="__main__")
