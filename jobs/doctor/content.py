"""The checks of what a database holds, whichever kind it is of."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from jobs.doctor.database import check_merged_customers, check_outbox, check_unnotified
from jobs.doctor.traffic import check_dry_runs, check_origins, check_undeclared_proxies
from models.check_result import (
    DRY_RUNS,
    MERGED_CUSTOMERS,
    OK,
    OUTBOX,
    UNDECLARED_PROXY,
    UNNOTIFIED,
    UNREGISTERED_ORIGINS,
    WARNING,
    CheckResult,
    reporting_failure,
)
from models.outbox.destination import missing_settings
from models.settings import Settings
from models.storage.inspected import InspectedDatabase

CHECKS = (OUTBOX, UNNOTIFIED, UNREGISTERED_ORIGINS, DRY_RUNS, UNDECLARED_PROXY, MERGED_CUSTOMERS)

# Asks a database, and returns its answer.
Ask = Callable[[Callable[[InspectedDatabase], Any]], Any]


def check_content(ask: Ask, settings: Settings, now: datetime) -> list[CheckResult]:
    """Run the checks of what the database holds. Raises nothing."""
    missing, trusted = missing_settings(settings), settings.trusted_proxies
    results: list[CheckResult] = []
    with reporting_failure(OUTBOX, results):
        results += ask(lambda database: check_outbox(database, missing, now))
    with reporting_failure(UNNOTIFIED, results):
        results += ask(lambda database: check_unnotified(database, now))
    with reporting_failure(UNREGISTERED_ORIGINS, results):
        results.append(ask(lambda database: check_origins(database, now)))
    with reporting_failure(DRY_RUNS, results):
        results.append(ask(lambda database: check_dry_runs(database, now)))
    with reporting_failure(UNDECLARED_PROXY, results):
        results.append(ask(lambda database: check_undeclared_proxies(database, trusted, now)))
    with reporting_failure(MERGED_CUSTOMERS, results):
        results.append(ask(check_merged_customers))
    return results


def without_content(*checks: str, has_problem: bool) -> list[CheckResult]:
    """Return the results of checks whose database is not there, or has a problem."""
    if has_problem:
        unknown = "not known, as the database has a problem"
        return [CheckResult(check, WARNING, unknown, "see 'database'") for check in checks]
    return [CheckResult(check, OK, "there is none yet") for check in checks]
