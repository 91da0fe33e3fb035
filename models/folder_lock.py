"""Owns the lock of the data folder: the proof that one server alone runs on it."""

import fcntl
import os
from pathlib import Path

from models.database import DatabaseRefused


class FolderLock:
    """The proof that one server alone runs on a data folder. Held until the process ends or `release`."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "server.lock"
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
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise DatabaseRefused(
                f"another server (process {holder or 'unknown'}) is running on {self._path.parent}; "
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
