"""A disk that fails on order and records what is written: a SQLite VFS over the system's."""

import json
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import apsw

Result = TypeVar("Result")

ORDER, RECORD, LEFT = "order.json", "record.pickle", "left"
ERRORS = {
    "write EIO": (apsw.IOError, "disk I/O error", apsw.SQLITE_IOERR_WRITE),
    "write EROFS": (apsw.IOError, "disk I/O error", apsw.SQLITE_IOERR_WRITE),
    "write ENOSPC": (apsw.FullError, "database or disk is full", apsw.SQLITE_FULL),
    "sync EIO": (apsw.IOError, "disk I/O error", apsw.SQLITE_IOERR_FSYNC),
}


class Disk(apsw.VFS):
    """The system's disk, with an order read from a folder, and a record kept in it.

    order.json: {"fail": one of ERRORS, "times": how often, "file": only for this file, "then_die": as "die",
    after the failure} or {"die": kill the process after so many operations}. The record is a sequence of
    pickled events: ("write", file, offset, bytes), ("sync", file), ("unsynced", file) for a failed sync,
    ("truncate", file, size), ("delete", file), ("answered", lead id).
    """

    def __init__(self, folder: Path, record: bool) -> None:
        super().__init__("faults", "unix", makedefault=True)
        self._folder = folder
        self._lock = threading.RLock()
        self._order_text = ""
        self._order: dict[str, Any] = {}
        self._record = (folder / RECORD).open("ab") if record else None

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return File(self, name, flags)

    def xDelete(self, name: str, sync_folder: bool) -> None:
        self.operate("delete", lambda: super(Disk, self).xDelete(name, sync_folder), os.path.basename(name))

    def note(self, *event: Any) -> None:
        """Append an event to the record."""
        if self._record is not None:
            with self._lock:
                pickle.dump(event, self._record)
                self._record.flush()

    def operate(self, kind: str, work: Callable[[], Result], *event: Any) -> Result:
        """Run one operation, unless the order is to fail or die, and append it to the record."""
        with self._lock:
            failure = self._ordered(kind, *event)
            if failure is not None:
                if kind == "sync":
                    self.note("unsynced", *event)
                raise failure
            result = work()
            self.note(kind, *event)
            return result

    def _ordered(self, kind: str, name: str = "", *_: Any) -> Exception | None:
        try:
            text = (self._folder / ORDER).read_text()
        except FileNotFoundError:
            text = "{}"
        if text != self._order_text:
            self._order_text, self._order = text, json.loads(text or "{}")
        if "die" in self._order:
            self._order["die"] -= 1
            (self._folder / LEFT).write_text(str(self._order["die"]))
            if self._order["die"] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        matches = self._order.get("fail", "").startswith(kind) and self._order.get("file", name) == name
        if matches and self._order.get("times", 1) > 0:
            self._order["times"] = self._order.get("times", 1) - 1
            if "then_die" in self._order:
                self._order["die"] = self._order["then_die"]
            make, message, code = ERRORS[self._order["fail"]]
            error = make(message)
            setattr(error, "extendedresult", code)
            return error
        return None

    def count_system_calls(self) -> None:
        """Count the program's own file operations too: renames, folders, fsyncs."""
        for name in ("rename", "replace", "unlink", "mkdir", "fsync"):
            setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call: Callable[..., Result]) -> Callable[..., Result]:
        def counted(*args: Any, **kwargs: Any) -> Result:
            return self.operate("system", lambda: call(*args, **kwargs))

        return counted


class File(apsw.VFSFile):
    """A file on a Disk."""

    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._disk = disk
        self._name = os.path.basename(path or "temporary")
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        write = super().xWrite
        self._disk.operate("write", lambda: write(data, offset), self._name, offset, bytes(data))

    def xSync(self, flags: int) -> None:
        sync = super().xSync
        self._disk.operate("sync", lambda: sync(flags), self._name)

    def xLock(self, level: int) -> None:
        try:
            super().xLock(level)
        except apsw.IOError as error:
            # A read-only connection that closes tries to take the write lock. SQLite ignores the failure;
            # apsw would raise it.
            raise apsw.BusyError from error

    def xTruncate(self, size: int) -> None:
        truncate = super().xTruncate
        self._disk.operate("truncate", lambda: truncate(size), self._name, size)


def give_order(folder: Path, **order: Any) -> None:
    """Set the order of the disk in this folder; without one, the disk works."""
    new = folder / "order.new"
    new.write_text(json.dumps(order))
    os.replace(new, folder / ORDER)


def read_record(folder: Path) -> Iterator[tuple[Any, ...]]:
    """Yield the events of the record, in order."""
    with (folder / RECORD).open("rb") as file:
        while True:
            try:
                yield pickle.load(file)
            except EOFError:
                return
