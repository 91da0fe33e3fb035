"""Check results: what the doctor found, how serious it is, and what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from models.storage import DatabaseUnusable, StorageError

DATABASE, SCHEMA, DISK_SPACE, CLOCK = "database", "schema", "disk_space", "clock"
SMTP_LOGIN, PARTNER, PUBLIC_URL, CERTIFICATES = "smtp_login", "partner", "public_url", "certificates"
LAST_BACKUP, OUTBOX, UNNOTIFIED = "last_backup", "outbox", "unnotified_leads"
UNREGISTERED_ORIGINS = "unregistered_origins"
DRY_RUNS = "dry_runs"
UNDECLARED_PROXY = "undeclared_proxy"
MERGED_CUSTOMERS = "merged_customers"
ROLE, ENCRYPTION, DURABILITY, REPLICATION = "role", "encryption", "durability", "replication"
TRANSACTIONS, CONNECTIONS, SERVERS = "transactions", "connections", "servers"

# The title of each check by its id, in the order of a report. Scripts may rely on the ids: they never change.
TITLES = {
    DATABASE: "database",
    SCHEMA: "schema",
    ROLE: "role",
    ENCRYPTION: "encryption",
    DURABILITY: "durability",
    REPLICATION: "replication",
    TRANSACTIONS: "transactions",
    CONNECTIONS: "connections",
    SERVERS: "servers",
    DISK_SPACE: "disk space",
    CLOCK: "clock",
    SMTP_LOGIN: "SMTP login",
    PARTNER: "partner",
    PUBLIC_URL: "public URL",
    CERTIFICATES: "certificates",
    LAST_BACKUP: "last backup",
    OUTBOX: "outbox",
    UNNOTIFIED: "leads untold",
    UNREGISTERED_ORIGINS: "web origins",
    DRY_RUNS: "dry runs",
    UNDECLARED_PROXY: "proxy",
    MERGED_CUSTOMERS: "customers",
}

# A database in the data folder, or a PostgreSQL, has these alone.
OF_FILES = (DISK_SPACE,)
OF_POSTGRESQL = (ROLE, ENCRYPTION, DURABILITY, REPLICATION, TRANSACTIONS, CONNECTIONS, SERVERS)

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One result of a check; a check may have several.

    id: the check's id. found: what the check found, in one line. fix: what to do; None if nothing.
    state: OK; WARNING: leads are safe, but act soon; PROBLEM: leads or their mail are, or will be, lost or
    late until the operator acts.
    """

    id: str
    state: str
    found: str
    fix: str | None = None

    @property
    def title(self) -> str:
        """The check's title, for people."""
        return TITLES[self.id]

    def as_dict(self) -> dict[str, Any]:
        """Return the result as `doctor --json` prints it."""
        return {
            "check": self.title,
            "state": self.state,
            "found": self.found,
            "remedy": self.fix,
            "id": self.id,
        }


def check_failed(check_id: str, error: Exception) -> CheckResult:
    """Return the result of a check that raised this error."""
    # An unforeseen error is not quoted: its message may contain a password.
    foreseen = isinstance(error, OSError | StorageError | DatabaseUnusable)
    name = type(error).__name__
    return CheckResult(
        check_id,
        PROBLEM,
        f"the check could not run: {error}" if foreseen else f"the check itself failed ({name})",
        "run this as the user that the server runs as" if foreseen else "report this as a bug",
    )


@contextmanager
def reporting_failure(check_id: str, results: list[CheckResult]) -> Iterator[None]:
    """Add the result of a failed check to the list if the block raises an error."""
    try:
        yield
    except Exception as error:
        results.append(check_failed(check_id, error))
