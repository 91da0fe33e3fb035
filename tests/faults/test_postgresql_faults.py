"""The faults of PostgreSQL in their short form, without and with their mutants."""

from pathlib import Path

import pytest
from fault_run import all_faults
from test_faults import check_mutant, check_promises, mutants_of

pytestmark = pytest.mark.sqlite("these runs start a PostgreSQL in any case, and are run once")

FAULTS = {name: fault for name, fault in all_faults().items() if name.startswith("pg-")}


@pytest.mark.parametrize("name", FAULTS)
def test_no_promise_is_broken_by(name: str, tmp_path: Path) -> None:
    check_promises(name, tmp_path)


# A run that a mutant keeps from its end leaves sockets and files open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "mutant"), mutants_of(FAULTS))
def test_the_run_catches_its_mutant(name: str, mutant: str, tmp_path: Path) -> None:
    check_mutant(name, mutant, tmp_path)
