"""Owns the lock of the data folder: the proof that one server alone runs on it."""

import fcntl
import os
from pathlib import Path

from models.database import DatabaseRefused

LOCK_FILE = "server.lock"


def lock_holder(data_dir: Path) -> str | None:
    """The number of the process that holds this folder's lock; None if none does. Nothing is made or kept.

    Raises OSError.
    """
    try:
        descriptor = os.open(data_dir / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # until the descriptor is closed
        return None
    except BlockingIOError:
        return _written_in(descriptor)
    finally:
        os.close(descriptor)


def _written_in(descriptor: int) -> str:
    return os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"


class FolderLock:
    """The proof that one server alone runs on a data folder. Held until the process ends or `release`."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_FILE
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock without waiting. Raises DatabaseRefused, naming the holder, if it is taken."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DatabaseRefused(f"{self._path} can't be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _written_in(descriptor)
            os.close(descriptor)
            raise DatabaseRefused(
                f"another server (process {holder}) is running on {self._path.parent}; "
                "stop it first, or give another LEADS_DATA_DIR"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Let another server have the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
