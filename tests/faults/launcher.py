"""Owns the starting of the program as a run wants it: on a disk of its own making, with a mutant put in, by
a clock that can be moved. In the environment: FAULT_FOLDER, FAULT_DISK, FAULT_MUTANT,
FAULT_RETRY_SECONDS, FAULT_CHECKPOINT_PAGES.
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
from mutants import put_in  # noqa: E402

import models.outbox.claims  # noqa: E402
import models.storage.sqlite.wal  # noqa: E402
from handlers.api.leads import LeadsHandler  # noqa: E402
from models.clock import Clock  # noqa: E402

CLOCK = "clock"  # a file in the folder: by how many seconds the time of day is set on, or back


def follow(folder: Path) -> None:
    """Have the program, and the scheduler in it, take the time of day from the machine's and the file."""

    class Moved(datetime):
        @classmethod
        def now(cls, zone: tzinfo | None = None) -> "Moved":
            try:
                by = float((folder / CLOCK).read_text() or 0)
            except FileNotFoundError:
                by = 0.0
            moved = datetime.now(zone) + timedelta(seconds=by)
            return cls.fromtimestamp(moved.timestamp(), zone)

    setattr(apscheduler.schedulers.base, "datetime", Moved)
    setattr(apscheduler.executors.base, "datetime", Moved)
    import models.clock

    setattr(models.clock, "datetime", Moved)
    assert Clock().now()


def watch_answers(disk: Disk) -> None:
    """Put each 201 on the record before a byte of it leaves."""
    write_json = LeadsHandler.write_json

    def watched(self: LeadsHandler, status: int, body: object) -> None:
        if status == 201 and isinstance(body, dict):
            disk.note("answered", body["id"])
        write_json(self, status, body)

    setattr(LeadsHandler, "write_json", watched)


if __name__ == "__main__":
    folder = Path(os.environ["FAULT_FOLDER"])
    if os.environ.get("FAULT_DISK"):
        disk = Disk(folder, record=os.environ["FAULT_DISK"] == "recorded")
        disk.watch_the_system()
        watch_answers(disk)
    if os.environ.get("FAULT_RETRY_SECONDS"):
        first = timedelta(seconds=float(os.environ["FAULT_RETRY_SECONDS"]))
        models.outbox.claims.RETRY_DELAYS = (first, *models.outbox.claims.RETRY_DELAYS[1:])
    if os.environ.get("FAULT_CHECKPOINT_PAGES"):
        models.storage.sqlite.wal.CHECKPOINT_PAGES = int(os.environ["FAULT_CHECKPOINT_PAGES"])
    follow(folder)
    if os.environ.get("FAULT_MUTANT"):
        put_in(os.environ["FAULT_MUTANT"])
    os.chdir(ROOT)
    runpy.run_path("server.py", run_name="__main__")
