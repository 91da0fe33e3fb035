"""Owns the running of trials, and the table of what they found.

python tests/faults/runner.py              every fault in its long form
python tests/faults/runner.py kill-9 ...   these rows alone
--short --json --list --no-mutants
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]

from trial import Fault, Trial, all_faults  # noqa: E402


async def try_fault(
    fault: Fault, folder: Path, times: int, *, mutant: str | None = None, timed: bool = False
) -> Trial:
    """Try a fault in this empty folder. What stumbles is a promise that was broken."""
    trial = Trial(folder, times, mutant, timed)
    try:
        await fault.run(trial)
    except Exception as error:
        if mutant is None:
            traceback.print_exc()
        trial.broken.append(f"the trial came to its end ({type(error).__name__}: {str(error)[:200]})")
    trial.close()
    return trial
