"""Every fault in its short form, without and with its mutants. `make faults` runs the long form.

Those of PostgreSQL are in a file of their own, which another process runs at the same time.
"""

import asyncio
import gc
from pathlib import Path

import pytest
from fault_run import Fault, all_faults
from mutants import all_mutants
from runner import try_fault

pytestmark = pytest.mark.sqlite("the rows pg-… have a PostgreSQL of their own")

FAULTS = {name: fault for name, fault in all_faults().items() if not name.startswith("pg-")}


def mutants_of(faults: dict[str, Fault]) -> list[tuple[str, str]]:
    """Return the name of each fault with each of its mutants."""
    return [(fault.name, mutant) for fault in faults.values() for mutant in fault.mutants]


def check_promises(name: str, folder: Path) -> None:
    """Run a fault: it breaks no promise."""
    fault = all_faults()[name]
    run = asyncio.run(try_fault(fault, folder, fault.short))
    if run.not_tried:
        pytest.skip(run.not_tried)
    assert run.broken == []


def check_mutant(name: str, mutant: str, folder: Path) -> None:
    """Run a fault with a mutant: it breaks a promise."""
    fault = all_faults()[name]
    run = asyncio.run(try_fault(fault, folder, fault.short, mutant=mutant))
    gc.collect()  # so that warnings about them come here, and not in another test
    if run.not_tried:
        pytest.skip(run.not_tried)
    assert run.broken


def test_each_fault_has_a_mutant_and_each_mutant_a_fault() -> None:
    faults = all_faults()
    assert all(fault.mutants for fault in faults.values())
    assert {mutant for _, mutant in mutants_of(faults)} == all_mutants().keys()


@pytest.mark.parametrize("name", FAULTS)
def test_no_promise_is_broken_by(name: str, tmp_path: Path) -> None:
    check_promises(name, tmp_path)


# A run that a mutant keeps from its end leaves sockets and files open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "mutant"), mutants_of(FAULTS))
def test_the_run_catches_its_mutant(name: str, mutant: str, tmp_path: Path) -> None:
    check_mutant(name, mutant, tmp_path)
