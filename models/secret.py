"""The installation's secret: it signs the thank-you page's URL, and keys the digests of idempotency keys.

It is a file beside the database, or the setting `secret`. After a rotation the earlier key still verifies for
a day, which is as long as the server keeps anything that the key was used for.
"""

import base64
import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from models.clock import Clock, utc_text
from models.files import make_private, sync_folder
from models.settings import SettingError

log = logging.getLogger("leads.server")

FILE_NAME = "leads.secret"
KEY_BYTES = 32
VERIFIES_FOR = timedelta(hours=24)  # how long a key is used after its rotation, for what it made before

_HEADING = "# The secret of this installation of Website leads. Keep it private, and beside leads.db.\n"
_RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class SecretKeys:
    """The keys of a secret, the newest first. The first one signs, each one verifies."""

    keys: tuple[bytes, ...]

    def digest(self, purpose: str, message: bytes) -> bytes:
        """Return the HMAC-SHA256 of a message by the newest key. purpose: keeps apart what is signed."""
        return _digest(self.keys[0], purpose, message)

    def digests(self, purpose: str, message: bytes) -> list[bytes]:
        """Return the HMAC-SHA256 of a message by each key."""
        return [_digest(key, purpose, message) for key in self.keys]

    def verifies(self, purpose: str, message: bytes, signature: bytes) -> bool:
        """Return True if one of the keys made this signature."""
        return any(hmac.compare_digest(made, signature) for made in self.digests(purpose, message))


def _digest(key: bytes, purpose: str, message: bytes) -> bytes:
    return hmac.digest(key, purpose.encode() + b"\0" + message, hashlib.sha256)


@dataclass(frozen=True, slots=True)
class _StoredKey:
    """A key in the file. retired_at: of its rotation; None for the newest one."""

    value: bytes
    retired_at: datetime | None = None


class InstallationSecret:
    """The secret of a running server. A file that a command changes is read again at the next use."""

    def __init__(self, data_dir: Path, clock: Clock, given: tuple[bytes, ...] = ()) -> None:
        """given: the keys of the setting, the newest first; () for those of the file."""
        self._path, self._clock = data_dir / FILE_NAME, clock
        self._keys = SecretKeys(given)
        self._is_given = bool(given)
        self._version: tuple[int, int] | None = None

    def open(self) -> None:
        """Read the file, and make it if there is none. Raises SettingError."""
        if self._is_given:
            return
        if not self._path.exists():
            _write(self._path, [_StoredKey(secrets.token_bytes(KEY_BYTES))])
        elif self._path.stat().st_mode & 0o077:
            log.warning("others could read the installation's secret", extra={"file": str(self._path)})
            self._path.chmod(0o600)
        self._read()

    def keys(self) -> SecretKeys:
        """Return the keys that count now."""
        if not self._is_given and _version(self._path) != self._version:
            try:
                self._read()
            except SettingError as error:  # the keys in memory are still those of this installation
                log.error("the installation's secret can't be read", extra={"reason": str(error)})
                self._version = _version(self._path)
        return self._keys

    def _read(self) -> None:
        self._version = _version(self._path)
        self._keys = SecretKeys(tuple(key.value for key in _still_used(_read(self._path), self._clock.now())))


def rotate_secret(data_dir: Path, now: datetime) -> Path:
    """Make a new key, which signs from now on; the earlier one verifies for a day. Return the file's path.

    Raises SettingError if the file can't be read or written.
    """
    path = data_dir / FILE_NAME
    earlier = _still_used(_read(path), now) if path.exists() else []
    _write(path, [_StoredKey(secrets.token_bytes(KEY_BYTES)), *_retired(earlier, now)])
    return path


def add_keys_of(backup: Path, data_dir: Path, now: datetime) -> None:
    """Let the keys in this copy of a secret verify for a day, what a restored database was made with.

    In a folder without a secret the copy becomes its secret. Does nothing without a copy. Raises
    SettingError.
    """
    if not backup.exists():
        return
    path, copied = data_dir / FILE_NAME, _read(backup)
    if not path.exists():
        _write(path, copied)
        return
    present = _read(path)
    known = {key.value for key in present}
    _write(path, [*present, *_retired((key for key in copied if key.value not in known), now)])


def copy_secret(data_dir: Path, target: Path) -> bool:
    """Copy the folder's secret to a new private file. Return False if there is none. Raises SettingError."""
    path = data_dir / FILE_NAME
    if not path.exists():
        return False
    _write(target, _read(path))
    return True


def _retired(keys: Iterable[_StoredKey], now: datetime) -> list[_StoredKey]:
    return [replace(key, retired_at=key.retired_at or now) for key in keys]


def _still_used(keys: Iterable[_StoredKey], now: datetime) -> list[_StoredKey]:
    return [key for key in keys if key.retired_at is None or now - key.retired_at < VERIFIES_FOR]


def _version(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _read(path: Path) -> list[_StoredKey]:
    remedy = "put the file back, such as from a backup; without it, a new one is made at the next start"
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        keys = [_parse(line) for line in lines if line.strip() and not line.startswith("#")]
    except OSError as error:
        raise SettingError(f"the secret in {path} can't be read: {error.strerror}") from None
    except ValueError:
        keys = []
    if not keys or keys[0].retired_at is not None:
        raise SettingError(f"{path} holds no secret; {remedy}")
    return keys


def _parse(line: str) -> _StoredKey:
    value, *rest = line.split()
    key = base64.b64decode(value, validate=True)  # binascii.Error is a ValueError
    if len(key) < KEY_BYTES or (rest and (len(rest) != 2 or rest[0] != _RETIRED)):
        raise ValueError
    return _StoredKey(key, datetime.fromisoformat(rest[1]) if rest else None)


def _write(path: Path, keys: Iterable[_StoredKey]) -> None:
    lines = [base64.b64encode(key.value).decode() + _retirement(key) + "\n" for key in keys]
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)  # a crash may have left it
        make_private(partial, (_HEADING + "".join(lines)).encode())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise SettingError(f"the secret can't be written to {path}: {error.strerror}") from None


def _retirement(key: _StoredKey) -> str:
    return "" if key.retired_at is None else f" {_RETIRED} {utc_text(key.retired_at)}"
