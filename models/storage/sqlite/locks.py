"""Locks of the data folder: one server alone runs on it, and no command while a restore or a move does."""

import fcntl
import os
import time
from pathlib import Path

from models.storage import DatabaseUnusable

SERVER_LOCK, USE_LOCK = "server.lock", "use.lock"
# `lock_holder` takes a lock for a moment, to see whether it is free.
LOCK_TRIES, BETWEEN_TRIES_SECONDS = 5, 0.02


def lock_holder(data_dir: Path) -> str | None:
    """Return the id of the process that holds the folder's server lock; None if the lock is free.

    Makes no file and keeps no lock. Raises OSError.
    """
    try:
        descriptor = os.open(data_dir / SERVER_LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # until the descriptor is closed
        return None
    except BlockingIOError:
        return _read_holder(descriptor)
    finally:
        os.close(descriptor)


def _read_holder(descriptor: int) -> str:
    return os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"


class FolderLock:
    """Lock on a data folder, exclusive or shared, held until `release` or the end of the process."""

    def __init__(self, path: Path, *, shared: bool, refusal: str) -> None:
        """refusal: the message if another process has the lock; {holder} stands for its id."""
        self._path = path
        self._shared = shared
        self._refusal = refusal
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock without waiting. Raises DatabaseUnusable if it is taken."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DatabaseUnusable(f"{self._path} can't be written: {error.strerror}") from error
        if not self._lock(descriptor):
            refusal = self._refusal.format(holder=_read_holder(descriptor))
            os.close(descriptor)
            raise DatabaseUnusable(refusal)
        if not self._shared:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def _lock(self, descriptor: int) -> bool:
        for left in reversed(range(LOCK_TRIES)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_NB | (fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX))
                return True
            except BlockingIOError:
                if left:
                    time.sleep(BETWEEN_TRIES_SECONDS)
        return False

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def server_lock(data_dir: Path, otherwise: str = ", or give another LEADS_DATA_DIR") -> FolderLock:
    """Return the lock that one server alone holds. otherwise: what may help besides stopping that server."""
    refusal = f"another server (process {{holder}}) is running on {data_dir}; stop it first{otherwise}"
    return FolderLock(data_dir / SERVER_LOCK, shared=False, refusal=refusal)


def command_lock(data_dir: Path) -> FolderLock:
    """Return the lock that each running command holds, beside a server and other commands."""
    refusal = f"a restore into {data_dir}, or a move, is under way; let it come to its end"
    return FolderLock(data_dir / USE_LOCK, shared=True, refusal=refusal)


def restore_lock(data_dir: Path) -> FolderLock:
    """Return the lock that excludes every command: one would go on writing to a file that was moved away."""
    refusal = f"another command is at work in {data_dir}; let it come to its end first"
    return FolderLock(data_dir / USE_LOCK, shared=False, refusal=refusal)
