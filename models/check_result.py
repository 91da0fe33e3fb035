"""Owns the words of a checkup: what was looked at, how it stands, what was seen, what to do about it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from models.storage import DatabaseUnusable, StorageError

DATABASE, SCHEMA, DISK_SPACE, CLOCK = "database", "schema", "disk space", "clock"
SMTP_LOGIN, PARTNER, PUBLIC_URL, CERTIFICATES = "SMTP login", "partner", "public URL", "certificates"
LAST_BACKUP, OUTBOX, UNNOTIFIED = "last backup", "outbox", "leads untold"
CHECKS = (
    DATABASE,
    SCHEMA,
    DISK_SPACE,
    CLOCK,
    SMTP_LOGIN,
    PARTNER,
    PUBLIC_URL,
    CERTIFICATES,
    LAST_BACKUP,
    OUTBOX,
    UNNOTIFIED,
)

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check found, in one line, and what to do about it; a check may have several.

    state: ok; warning: leads are safe, look at it soon; problem: leads, or their mail, are or will be lost
    or late until somebody acts.
    """

    check: str
    state: str
    found: str
    fix: str | None = None  # None: there is nothing to do

    def as_dict(self) -> dict[str, Any]:
        """The finding as commands show it."""
        return {"check": self.check, "state": self.state, "found": self.found, "remedy": self.fix}


def check_failed(check: str, error: Exception) -> CheckResult:
    """The finding of a check that failed itself."""
    # What else than these it may be is not quoted: the words of just any error may hold a password.
    told = isinstance(error, OSError | StorageError | DatabaseUnusable)
    name = type(error).__name__
    return CheckResult(
        check,
        PROBLEM,
        f"it can't be told: {error}" if told else f"the check itself failed ({name})",
        "run this as the user that the server runs as" if told else "report this as a bug",
    )


def span(length: timedelta) -> str:
    """A length of time in words, in a unit that leaves it two or more where it can: '26 hours'."""
    seconds = int(abs(length.total_seconds()))
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"


def in_bytes(count: int) -> str:
    """A number of bytes in words: '1.2 MB'."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
