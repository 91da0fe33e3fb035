"""Owns the operator's commands: their parser, the way in, and what each way of failing exits with."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from handlers.terminal import backup, building, config, customer, doctor, lead, openapi, outbox, token
from handlers.terminal.arguments import Nouns, add_settings, flags_of
from handlers.terminal.listing import note, prepare_output
from models.errors import ActionError
from models.settings import SettingError, Settings, load, names
from models.storage import DatabaseUnusable, OutcomeUnknown, StorageError
from models.storage.sqlite.failures import is_storage_failure
from models.version import VERSION

OK, SAID_NO, USAGE = 0, 1, 2
INTERRUPTED, PIPE_CLOSED = 130, 141  # 128 + the signal, as shells have it

Program = Callable[[Settings], int]
PROGRAM_HELP = {
    "serve": "run the server",
    "sandbox": "run a throwaway server for tests, that shows what comes in and what leaves",
    "demo": "run a throwaway server with a building, a mailbox and a partner to try it on",
}
# A throwaway server has a folder, a mail server and a partner of its own, and makes no backups.
NOT_FOR_THROWAWAYS = (
    "data_dir",
    "backup_dir",
    "backup_keep",
    "smtp_url",
    "june_homes_url",
    "june_homes_secret",
)
NOUNS = (building, token, lead, customer, outbox, backup, config)


def main(argv: Sequence[str], programs: Mapping[str, Program], run_checks: doctor.RunChecks) -> int:
    """Run one command; answers with its exit status. run_checks: what `doctor` runs.

    0 is done, 1 said no (one line on stderr says why and what to do), 2 a command that can't be understood.
    """
    os.umask(0o077)  # whatever a command makes holds renters' data
    prepare_output()
    parser = make_parser(programs, run_checks)
    try:
        args = parser.parse_args(argv)
    except SystemExit as done:  # argparse has said what there is to say
        return int(done.code or OK)
    try:
        if "run" not in args:
            parser.print_help()
            status = OK
        else:
            status = args.run(args, load(flags_of(args), file=args.config)) or OK
        sys.stdout.flush()  # here, where a closed pipe or a full disk can still be told
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_output()
        return PIPE_CLOSED
    except (ActionError, DatabaseUnusable, SettingError) as error:
        return _say_no(str(error))
    except OSError as error:
        _abandon_output()
        return _say_no(": ".join(filter(None, (error.filename, error.strerror))) or str(error))
    except Exception as error:
        if not isinstance(error, StorageError) and not is_storage_failure(error):
            raise
        outcome = (
            "it may be changed or not, look" if isinstance(error, OutcomeUnknown) else "nothing was changed"
        )
        return _say_no(f"the database failed: {error}; {outcome}, try again")


def make_parser(programs: Mapping[str, Program], run_checks: doctor.RunChecks) -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        description="Takes the leads of buildings' websites, and tells their agents.",
        epilog="Each command has its own --help. Settings go by flag, LEADS_* variable or --config FILE.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"leads {VERSION}")
    nouns: Nouns = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, program in programs.items():
        text = PROGRAM_HELP[name]
        command = nouns.add_parser(name, help=text, description=text, allow_abbrev=False)
        left_out = () if name == "serve" else NOT_FOR_THROWAWAYS
        add_settings(command, *(setting for setting in names() if setting not in left_out))
        command.set_defaults(run=lambda args, settings, program=program: program(settings))
    for noun in NOUNS:
        noun.add_commands(nouns)
    doctor.add_command(nouns, run_checks)
    openapi.add_command(nouns)
    return parser


def _say_no(reason: str) -> int:
    note(f"leads: {reason}")
    return SAID_NO


def _abandon_output() -> None:
    # What is still buffered can't be written; the interpreter would try once more as it ends, and complain.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
