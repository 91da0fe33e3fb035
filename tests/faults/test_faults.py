"""Every fault in its short form, without and with its mutants. `make faults` runs the long form."""

import asyncio
import gc
from pathlib import Path

import pytest
from fault_run import all_faults
from mutants import all_mutants
from runner import try_fault

FAULTS = all_faults()


def test_each_fault_has_a_mutant_and_each_mutant_a_fault() -> None:
    assert all(fault.mutants for fault in FAULTS.values())
    assert {mutant for fault in FAULTS.values() for mutant in fault.mutants} == all_mutants().keys()


@pytest.mark.parametrize("name", FAULTS)
def test_no_promise_is_broken_by(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    run = asyncio.run(try_fault(fault, tmp_path, fault.short))
    if run.not_tried:
        pytest.skip(run.not_tried)
    assert run.broken == []


# A run that a mutant keeps from its end leaves sockets and files open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("name", "mutant"), [(fault.name, mutant) for fault in FAULTS.values() for mutant in fault.mutants]
)
def test_the_run_catches_its_mutant(name: str, mutant: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    run = asyncio.run(try_fault(fault, tmp_path, fault.short, mutant=mutant))
    gc.collect()  # so that warnings about them come here, and not in another test
    if run.not_tried:
        pytest.skip(run.not_tried)
    assert run.broken
