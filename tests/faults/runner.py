"""Run the faults, and print a table of the findings.

python tests/faults/runner.py              every fault in its long form
python tests/faults/runner.py kill-9 ...   these rows alone
--short --json --list --no-mutants
"""

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from fault_run import CannotTry, Fault, FaultRun, all_faults  # noqa: E402

MUTANT_TIMEOUT_SECONDS = 60  # a mutant may keep a run from its end


async def try_fault(
    fault: Fault, folder: Path, times: int, *, mutant: str | None = None, timed: bool = False
) -> FaultRun:
    """Run a fault in this empty folder. An exception counts as a broken promise, unless a mutant is in."""
    run = FaultRun(folder, times, mutant, timed)
    try:
        async with asyncio.timeout(MUTANT_TIMEOUT_SECONDS if mutant else None):
            await fault.run(run)
    except CannotTry as reason:
        run.not_tried = str(reason)
        return run
    except Exception as error:
        # With a mutant, an exception or a timeout proves nothing: the run must find a broken promise.
        if mutant is None:
            traceback.print_exc()
            run.broken.append(f"the run reaches its end ({type(error).__name__}: {str(error)[:200]})")
        run.judge_losses(may_duplicate=fault.may_duplicate)
        return run
    run.close(may_duplicate=fault.may_duplicate)
    return run


def row(fault: Fault, run: FaultRun, seconds: float) -> dict[str, object]:
    """Return the findings of a run, as JSON has them."""
    return {
        "fault": fault.name,
        "about": fault.about,
        "tried": run.tried,
        "lost": run.lost,
        "duplicated": run.duplicated,
        "recovery_seconds": run.recovery,
        "recovery_by_stepped_clock": run.recovery_by_clock,
        "seen": run.seen,
        "broken": run.broken,
        "not_tried": run.not_tried,
        "mutants": {},
        "took_seconds": round(seconds, 1),
    }


HEAD = (
    f"{'fault':<21}{'tried':>9}{'lost':>6}{'twice':>7}{'recovery':>12}  {'held':<5}{'mutants caught':<16}seen"
)


def line(found: dict[str, Any]) -> str:
    """Return the row as text."""
    if found["not_tried"]:
        return f"{found['fault']:<21}not tried: {found['not_tried']}"
    recovery = found["recovery_seconds"]
    spent = (
        "-"
        if recovery is None
        else f"{recovery:.3f} s" + ("*" if found["recovery_by_stepped_clock"] else " ")
    )
    caught = f"{sum(found['mutants'].values())} of {len(found['mutants'])}" if found["mutants"] else "-"
    text = (
        f"{found['fault']:<21}{found['tried']:>9,}{found['lost']:>6,}{found['duplicated']:>7,}{spent:>12}  "
        f"{'no' if found['broken'] else 'yes':<5}{caught:<16}{found['seen']}"
    )
    return "\n".join([text, *(f"    broken: {promise}" for promise in found["broken"])])


async def measure(fault: Fault, short: bool, with_mutants: bool) -> dict[str, Any]:
    """Run a fault, and run it again with each of its mutants."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="leads-fault-") as folder:
        run = await try_fault(fault, Path(folder), fault.short if short else fault.long, timed=not short)
    findings: dict[str, Any] = row(fault, run, time.monotonic() - began)
    for mutant in fault.mutants if with_mutants and not run.not_tried else ():
        with tempfile.TemporaryDirectory(prefix="leads-fault-") as folder:
            mutated = await try_fault(fault, Path(folder), fault.short, mutant=mutant)
        findings["mutants"][mutant] = bool(mutated.broken)
    return findings


def main() -> int:
    """Run the faults. Return 0 if every promise held and every mutant was caught."""
    faults = all_faults()
    parser = argparse.ArgumentParser(
        description="Run faults against the server, and print a table of the findings."
    )
    parser.add_argument("names", nargs="*", metavar="FAULT", help="run these rows only; --list names them")
    parser.add_argument(
        "--short", action="store_true", help="run each fault fewer times, without limits on time"
    )
    parser.add_argument("--no-mutants", action="store_true", help="do not run the mutants")
    parser.add_argument("--list", action="store_true", help="list the faults")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in faults]:
        parser.error(f"there is no fault {', '.join(unknown)}; see --list")
    if args.list:
        for fault in faults.values():
            print(f"{fault.name:<21}{fault.about}")
        return 0
    logging.disable()
    if not args.json:
        print(HEAD, flush=True)
    failed = False
    for name in args.names or faults:
        if sys.stderr.isatty():
            print(f"{name} ...", end="\r", file=sys.stderr, flush=True)
        found = asyncio.run(measure(faults[name], args.short, not args.no_mutants))
        print(json.dumps(found) if args.json else line(found), flush=True)
        failed |= bool(found["broken"]) or not all(found["mutants"].values())
    if not args.json:
        print(
            "\nlost: leads acknowledged, but not stored, or in part; twice: leads or mails that came twice;"
            "\nheld: whether every promise held; mutants: defects put in on purpose, and caught;"
            "\n*: by the clock that the run steps."
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
