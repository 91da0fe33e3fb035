"""Operator's commands for tests: each runs as a process, all on one data folder."""

import json
import os
import pty
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from databases import opened
from program_forks import Fork, run_forked
from server_process import ROOT, environment

from models.audit import COMMAND_LINE, Actor
from models.building_actions import add_building
from models.building_match import BuildingKeys
from models.customer import Customer, Renter
from models.intake import Recorded, Submission, record_leads
from models.phone import phone_key

NOW = datetime(2026, 11, 23, 15, 0, tzinfo=UTC)
ACTOR = Actor(COMMAND_LINE, "tester")


@dataclass
class Commands:
    """Runs commands on one data folder."""

    data_dir: Path
    settings: dict[str, str] = field(default_factory=dict)

    def arguments(self, *args: object) -> tuple[list[str], dict[str, str]]:
        """Return the command line of a process that runs a command, and its environment."""
        command = [sys.executable, str(ROOT / "server.py"), *map(str, args)]
        return command, environment(data_dir=str(self.data_dir), **self.settings)

    def run(self, *args: object, status: int = 0, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a command; assert its exit status."""
        _, variables = self.arguments(*args)
        done = run_forked(list(map(str, args)), variables, self.data_dir.parent, stdin)
        assert done.returncode == status, (args, done)
        assert "Traceback" not in done.stderr
        return done

    def rows(self, *args: object) -> list[dict[str, Any]]:
        """Run a command with --json; return its rows."""
        return [json.loads(line) for line in self.run(*args, "--json").stdout.splitlines()]

    def row(self, *args: object) -> dict[str, Any]:
        """Run a command with --json; return its only row."""
        [only] = self.rows(*args)
        return only

    def refusal(self, *args: object, **options: Any) -> str:
        """Run a command that fails with status 1; return its one-line error."""
        [line] = self.run(*args, status=1, **options).stderr.splitlines()
        assert line.startswith("leads: ")
        return line.removeprefix("leads: ")

    def on_terminal(self, *args: object, typed: str = "", columns: int = 80) -> tuple[int, str]:
        """Run a command on a terminal; return its exit status and all output."""
        _, variables = self.arguments(*args)
        ours, theirs = pty.openpty()
        command = Fork(
            list(map(str, args)),
            {**variables, "COLUMNS": str(columns)},
            self.data_dir.parent,
            [theirs] * 3,
        )
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65_536)
            except OSError:  # the process has closed its end
                break
        os.close(ours)
        return command.wait(), shown.decode()

    @contextmanager
    def database(self) -> Iterator[None]:
        """Open the database in this process, in a transaction."""
        with opened(self.data_dir):
            yield

    def leads(self, *renters: dict[str, Any]) -> list[int]:
        """Record leads; return their ids. The first call registers a building with the token 'maple'."""
        with self.database():
            if Customer.select().count() == 0:
                fields = {"name": "Maple Court", "agent_email": "agent@maple.test"}
                add_building(ACTOR, fields, "maple", NOW)
            recorded = record_leads([submission(**renter) for renter in renters])
            return [lead.lead_id for lead in recorded if isinstance(lead, Recorded)]


def submission(
    name: str | None = "Ann Lee",
    email: str = "ann@renter.test",
    phone: str | None = "+1 555 123 4567",
    token: str | None = "maple",
    **others: Any,
) -> Submission:
    """Return a lead as `record_leads` takes it. others: further fields, and `at`, when it came."""
    renter = Renter(name, email, email, phone, phone and phone_key(phone))
    return Submission(
        secrets.token_hex(8), others.pop("at", NOW), BuildingKeys(token, None, None), renter, **others
    )
