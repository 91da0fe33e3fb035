"""The installation's secret: it signs the thank-you page's URL, and keys stored digests of renters' data.

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
from models.setting_values import ENCODED_KEY, MIN_SECRET_BYTES
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


_PROCESS_KEYS = SecretKeys((secrets.token_bytes(KEY_BYTES),))


def process_keys() -> SecretKeys:
    """Return keys for leads that no server took, such as a test's: they count in this process alone."""
    return _PROCESS_KEYS


def _digest(key: bytes, purpose: str, message: bytes) -> bytes:
    return hmac.digest(key, purpose.encode() + b"\0" + message, hashlib.sha256)


class _Damaged(SettingError):
    """The file can be read, and holds no secret."""


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
        self._stored: list[_StoredKey] = []
        self._keys = SecretKeys(given)
        self._is_given = bool(given)
        self._file_version: tuple[int, int] | None = None
        self._expires_at: datetime | None = None  # when the oldest key stops to verify

    def open(self) -> None:
        """Read the file, and make it if there is none. Raises SettingError.

        A damaged file is put aside: leads matter more than what its keys signed within the last day.
        """
        if self._is_given:
            return
        if self._path.exists():
            _make_private_again(self._path)
            _put_damaged_aside(self._path, self._clock.now())
        if not self._path.exists():
            _write_file(self._path, [_StoredKey(secrets.token_bytes(KEY_BYTES))])
        self._read()

    def keys(self) -> SecretKeys:
        """Return the keys that count now."""
        if self._is_given:
            return self._keys
        if _version_of(self._path) != self._file_version:
            try:
                self._read()
            except SettingError as error:  # the keys in memory are still those of this installation
                log.error("the installation's secret can't be read", extra={"reason": str(error)})
                self._file_version = _version_of(self._path)
        elif self._expires_at is not None and self._clock.now() >= self._expires_at:
            self._choose()
        return self._keys

    def _read(self) -> None:
        self._file_version = _version_of(self._path)
        self._stored = _read_file(self._path)
        self._choose()

    def _choose(self) -> None:
        used = _still_used(self._stored, self._clock.now())
        self._keys = SecretKeys(tuple(key.value for key in used))
        ends = [key.retired_at + VERIFIES_FOR for key in used if key.retired_at is not None]
        self._expires_at = min(ends, default=None)


def read_keys(data_dir: Path, given: tuple[bytes, ...] = ()) -> SecretKeys | None:
    """Return the keys of the setting, or else of the folder's file; None if there is none. Changes nothing.

    given: the keys of the setting. Raises SettingError if the file can't be read, or is damaged.
    """
    if given:
        return SecretKeys(given)
    path = data_dir / FILE_NAME
    return SecretKeys(tuple(key.value for key in _read_file(path))) if path.exists() else None


def rotate_secret(data_dir: Path, now: datetime) -> Path:
    """Make a new key, which signs from now on; the earlier one verifies for a day. Return the file's path.

    A damaged file is put aside. Raises SettingError if the file can't be read or written.
    """
    path = data_dir / FILE_NAME
    _put_damaged_aside(path, now)
    earlier = _still_used(_read_file(path), now) if path.exists() else []
    _write_file(path, [_StoredKey(secrets.token_bytes(KEY_BYTES)), *_retired(earlier, now)])
    return path


def add_keys_of(backup: Path, data_dir: Path, now: datetime) -> bool:
    """Let the keys in this copy of a secret verify for a day, as a restored database was made with them.

    In a folder without a secret the copy becomes its secret. Return False without a copy that can be used.
    Raises SettingError if the folder's file can't be written.
    """
    path = data_dir / FILE_NAME
    try:
        copied = _read_file(backup)
    except SettingError:
        return False
    _put_damaged_aside(path, now)
    if not path.exists():
        _write_file(path, copied)
        return True
    present = _read_file(path)
    _write_file(path, [*present, *_retired(_without(present, copied), now)])
    return True


def store_keys(data_dir: Path, keys: SecretKeys, now: datetime) -> None:
    """Make these keys the folder's secret. All others verify for a day.

    Raises SettingError if the file can't be written.
    """
    path = data_dir / FILE_NAME
    _put_damaged_aside(path, now)
    present = _read_file(path) if path.exists() else []
    newest, *earlier = map(_StoredKey, keys.keys)
    others = [*present, *_without(present, earlier)]
    _write_file(path, [newest, *_retired(_without([newest], others), now)])


def setting_of(keys: SecretKeys) -> str:
    """Return these keys as the setting `secret` takes them."""
    return ", ".join(ENCODED_KEY + base64.b64encode(key).decode() for key in keys.keys)


def copy_secret(data_dir: Path, target: Path) -> None:
    """Copy the folder's secret, if there is one, to a new private file. Raises OSError."""
    path = data_dir / FILE_NAME
    target.unlink(missing_ok=True)
    if path.exists():
        make_private(target, path.read_bytes())


def _make_private_again(path: Path) -> None:
    if not path.stat().st_mode & 0o077:
        return
    log.warning("others could read the installation's secret", extra={"file": str(path)})
    try:
        path.chmod(0o600)
    except OSError as error:
        log.warning("its mode can't be changed", extra={"file": str(path), "reason": error.strerror})


def _put_damaged_aside(path: Path, now: datetime) -> None:
    if not path.exists():
        return
    try:
        _read_file(path)
    except _Damaged:
        aside = path.with_name(f"{path.name}.damaged-{now:%Y%m%dT%H%M%SZ}")
        try:
            path.rename(aside)
        except OSError as error:
            raise SettingError(f"{path} is damaged, and can't be put aside: {error.strerror}") from None
        log.error("the installation's secret was damaged, so a new one is made", extra={"kept": str(aside)})


def _retired(keys: Iterable[_StoredKey], now: datetime) -> list[_StoredKey]:
    return [replace(key, retired_at=key.retired_at or now) for key in keys]


def _without(known: Iterable[_StoredKey], keys: Iterable[_StoredKey]) -> list[_StoredKey]:
    values = {key.value for key in known}
    return [key for key in keys if key.value not in values]


def _still_used(keys: Iterable[_StoredKey], now: datetime) -> list[_StoredKey]:
    return [key for key in keys if key.retired_at is None or now - key.retired_at < VERIFIES_FOR]


def _version_of(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # for each lead; Path.stat takes twice as long
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _read_file(path: Path) -> list[_StoredKey]:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        keys = [_parse(line) for line in lines if line.strip() and not line.startswith("#")]
    except OSError as error:
        raise SettingError(f"the secret in {path} can't be read: {error.strerror}") from None
    except ValueError:
        keys = []
    if not keys or keys[0].retired_at is not None:
        raise _Damaged(f"{path} holds no secret")
    return keys


def _parse(line: str) -> _StoredKey:
    value, *rest = line.split()
    key = base64.b64decode(value, validate=True)  # binascii.Error is a ValueError
    if len(key) < MIN_SECRET_BYTES or (rest and (len(rest) != 2 or rest[0] != _RETIRED)):
        raise ValueError
    return _StoredKey(key, datetime.fromisoformat(rest[1]) if rest else None)


def _write_file(path: Path, keys: Iterable[_StoredKey]) -> None:
    lines = [base64.b64encode(key.value).decode() + _retirement(key) + "\n" for key in keys]
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # with PostgreSQL nothing else is in it
        partial.unlink(missing_ok=True)  # a crash may have left it
        make_private(partial, (_HEADING + "".join(lines)).encode())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise SettingError(f"the secret can't be written to {path}: {error.strerror}") from None


def _retirement(key: _StoredKey) -> str:
    return "" if key.retired_at is None else f" {_RETIRED} {utc_text(key.retired_at)}"
