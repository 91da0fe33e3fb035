"""The operator's commands: their parser, their entry point, and their exit statuses."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from handlers.terminal import (
    backup,
    building,
    config,
    customer,
    doctor,
    lead,
    move,
    openapi,
    outbox,
    secret,
    token,
)
from handlers.terminal.arguments import OK, REFUSED, CommandContext, Nouns, add_settings, flags_of, unix_user
from handlers.terminal.hints import with_hint
from handlers.terminal.output import note, prepare_output
from models.clock import Clock
from models.errors import ActionError
from models.settings import SettingError, Settings, load, setting_names
from models.storage import DatabaseUnusable, OutcomeUnknown, StorageError
from models.version import VERSION

INTERRUPTED, PIPE_CLOSED = 130, 141  # 128 + the number of the signal, as in a shell

Program = Callable[[Settings], int]
PROGRAM_HELP = {
    "serve": "run the server",
    "sandbox": "run a throwaway server for tests; its page shows each request, mail and partner call",
    "demo": "run a throwaway server to try, with a building, a mailbox and a partner",
}
# A throwaway server brings its own data folder, mail server and partner, and makes no backups.
NOT_FOR_THROWAWAYS = (
    "data_dir",
    "database_url",
    "backup_dir",
    "backup_keep",
    "smtp_url",
    "june_homes_url",
    "june_homes_secret",
    "secret",
)
NOUNS = (building, token, lead, customer, outbox, backup, secret, config)


def main(argv: Sequence[str], programs: Mapping[str, Program], run_checks: doctor.RunChecks) -> int:
    """Run one command and return its exit status. run_checks: the checks of `doctor`.

    0: done. 1: refused or failed; one line on stderr says why and what to do. 2: not a valid command.
    """
    os.umask(0o077)  # the files that commands create hold renters' data
    prepare_output()
    parser = make_parser(programs, run_checks)
    try:
        args = parser.parse_args(argv)
    except SystemExit as done:  # argparse has printed its message
        return int(done.code or OK)
    try:
        if "run" not in args:
            parser.print_help()
            status = OK
        else:
            settings = load(flags_of(args), file=args.config)
            if not args.logs:
                for variable in settings.foreign:
                    note(f"warning: {variable}")
            status = args.run(CommandContext(args, settings, Clock(), unix_user())) or OK
        sys.stdout.flush()  # here, where a closed pipe or a full disk can still be reported
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_output()
        return PIPE_CLOSED
    except ActionError as error:
        return _refuse(with_hint(error))
    except (DatabaseUnusable, SettingError) as error:
        return _refuse(str(error))
    except OSError as error:
        _abandon_output()
        return _refuse(": ".join(filter(None, (error.filename, error.strerror))) or str(error))
    except UnicodeEncodeError:  # nothing in the database is such a text
        return _refuse("an argument is not valid UTF-8")
    except StorageError as error:
        outcome = (
            "it may be changed or not, look" if isinstance(error, OutcomeUnknown) else "nothing was changed"
        )
        return _refuse(f"the database failed: {error}; {outcome}, try again")


def make_parser(programs: Mapping[str, Program], run_checks: doctor.RunChecks) -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        description="Take leads from buildings' websites, and mail them to leasing agents.",
        epilog="Each command has its own --help. Settings go by flag, LEADS_* variable or --config FILE.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"leads {VERSION}")
    parser.set_defaults(logs=False)  # whether the command has a log, which its warnings go to
    nouns: Nouns = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, program in programs.items():
        text = PROGRAM_HELP[name]
        command = nouns.add_parser(name, help=text, description=text, allow_abbrev=False)
        left_out = () if name == "serve" else NOT_FOR_THROWAWAYS
        add_settings(command, *(setting for setting in setting_names() if setting not in left_out))
        command.set_defaults(run=lambda context, program=program: program(context.settings), logs=True)
    for noun in NOUNS:
        noun.add_commands(nouns)
    move.add_command(nouns)
    doctor.add_command(nouns, run_checks)
    openapi.add_command(nouns)
    return parser


def _refuse(reason: str) -> int:
    note(f"leads: {reason}")
    return REFUSED


def _abandon_output() -> None:
    # Buffered output can't be written. At its exit the interpreter would try again, and print an error.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
