"""The audit log: each action of an operator leaves one entry, without personal data."""

import os
import pwd
import re
from collections.abc import Callable

import pytest
from command_line import ACTOR, NOW, Commands
from conftest import ServerHarness
from server_process import ROOT

from handlers.terminal.hints import HINTS
from models.audit import AuditEntry
from models.building import find_building
from models.building_actions import update_building
from models.errors import ActionError, Invalid, NotFound
from models.outbox.actions import pause_after_restore
from models.outbox.delivery import FAILED, Delivery
from models.spam import SpamSignals

Entry = tuple[str, str, str | None, list[str]]


def entries(commands: Commands) -> list[Entry]:
    with commands.database():
        rows = AuditEntry.select().order_by(AuditEntry.id)
        return [(row.action, row.subject_kind, row.subject_id, row.fields) for row in rows]


def test_each_command_that_changes_something_leaves_one_entry(commands: Commands) -> None:
    commands.leads({}, {"token": None}, {"spam_signals": SpamSignals(honeypot=True)})
    expected: list[Entry] = [("building.add", "building", "1", ["agent_email", "name"])]
    steps: list[tuple[str, Entry]] = [
        ("building add --name Oak --time-zone UTC", ("building.add", "building", "2", ["name", "time_zone"])),
        ("building update 2 --agent-email a@oak.test", ("building.update", "building", "2", ["agent_email"])),
        (
            "building update 2 --name Elm --add-website https://oak.test",
            ("building.update", "building", "2", ["name", "website_urls"]),
        ),
        (
            "building update 2 --name Oak --add-website https://OAK.test/",
            ("building.update", "building", "2", ["name"]),
        ),
        ("token issue 1 --token second", ("token.issue", "token", "3", [])),
        ("token rotate 1", ("token.rotate", "token", "4", [])),
        ("token revoke second", ("token.revoke", "token", "3", [])),
        ("lead assign 2 1", ("lead.assign", "lead", "2", ["building_id"])),
        ("lead send 2 --to boss@maple.test", ("lead.send", "lead", "2", ["recipient"])),
        ("lead correct 2 --slot 2026-12-01T10:00", ("lead.correct", "lead", "2", ["slot"])),
        ("lead release 3", ("lead.release", "lead", "3", [])),
        ("outbox skip 1", ("delivery.skip", "delivery", "1", [])),
        ("outbox retry 1", ("delivery.retry", "delivery", "1", [])),
        ("outbox pause email", ("destination.pause", "destination", "email", [])),
        ("outbox resume email", ("destination.resume", "destination", "email", [])),
        ("customer flag-spam 1", ("customer.flag_spam", "customer", "1", [])),
        ("customer unflag-spam 1", ("customer.unflag_spam", "customer", "1", [])),
        ("customer erase 1 --yes", ("customer.erase", "customer", "1", [])),
        ("building remove 2", ("building.remove", "building", "2", [])),
    ]
    for command, entry in steps:
        commands.run(*command.split())
        expected.append(entry)
    assert entries(commands) == expected
    with commands.database():
        newest = AuditEntry.select().order_by(AuditEntry.id.desc()).get()
    assert (newest.actor_kind, newest.actor_name) == ("command line", pwd.getpwuid(os.getuid()).pw_name)


def test_a_retry_of_all_failed_deliveries_leaves_one_entry(commands: Commands) -> None:
    commands.leads({}, {})
    commands.run("outbox", "retry", "--failed")  # of none, which changes nothing
    with commands.database():
        Delivery.update(state=FAILED, due_at=None).execute()
    commands.run("outbox", "retry", "--failed")
    assert entries(commands)[1:] == [("delivery.retry_failed", "destination", None, [])]


def test_several_deliveries_leave_an_entry_each(commands: Commands) -> None:
    commands.leads({}, {})
    commands.run("outbox", "skip", 1, 2, 1)
    assert [subject for _, _, subject, _ in entries(commands)[1:]] == ["1", "2"]


@pytest.mark.parametrize(
    "command",
    [
        "building update 1 --time-zone Mars",
        "building update 1 --name Oak --remove-website https://oak.test",
        "token issue 1 --token maple",
        "outbox retry 1 99",
        "lead list",
    ],
)
def test_a_refused_action_and_a_listing_leave_none(commands: Commands, command: str) -> None:
    commands.leads({})
    before = entries(commands)
    commands.run(*command.split(), status=0 if command == "lead list" else 1)
    assert entries(commands) == before


def test_an_update_that_changes_no_website_leaves_none(commands: Commands) -> None:
    commands.run("building", "add", "--name", "Oak", "--website", "https://oak.test")
    assert entries(commands) == [("building.add", "building", "1", ["name", "website_urls"])]
    commands.run("building", "update", 1, "--add-website", "https://oak.test/apply")
    commands.run("building", "update", 1, "--website", "https://oak.test")
    assert len(entries(commands)) == 1
    commands.run("building", "update", 1, "--website", "")
    assert entries(commands)[1:] == [("building.update", "building", "1", ["website_urls"])]


def test_restore_and_its_pauses_leave_entries(commands: Commands) -> None:
    commands.leads({})
    with commands.database():
        pause_after_restore(ACTOR, NOW)
    assert [(action, subject) for action, _, subject, _ in entries(commands)[1:]] == [
        ("backup.restore", None),
        ("destination.pause", "email"),
        ("destination.pause", "june_homes"),
    ]


def test_an_entry_holds_no_value_of_a_field(commands: Commands) -> None:
    commands.leads({"name": "Zebediah", "email": "zebediah@renter.test"})
    commands.run("building", "update", 1, "--name", "Secret Court", "--agent-email", "secret@maple.test")
    commands.run("customer", "erase", 1, "--yes")
    with commands.database():
        held = repr(list(AuditEntry.select().dicts()))
    assert not re.search("secret|zebediah", held, re.IGNORECASE)


async def test_an_action_and_its_entry_are_one_transaction(harness: ServerHarness) -> None:
    def fails() -> None:
        update_building(ACTOR, 1, {"name": "Oak"}, harness.clock.now())
        raise RuntimeError

    before = await harness.server.storage.read(lambda: AuditEntry.select().count())
    with pytest.raises(RuntimeError):
        await harness.server.storage.write(fails)
    name, after = await harness.server.storage.read(
        lambda: (find_building(1).name, AuditEntry.select().count())
    )
    assert (name, after) == ("The Maple", before)


def test_error_codes_and_hints_match() -> None:
    code = re.compile(r'(?:(?:NotFound|Conflict|Invalid)\(\s*(?:f?".*"|missing)|_find\(lead_id),\s*"(\w+)"')
    sources = [*(ROOT / "models").rglob("*.py"), *(ROOT / "handlers" / "terminal").glob("*.py")]
    used = {found for file in sources for found in code.findall(file.read_text(encoding="utf-8"))}
    assert used == HINTS.keys()


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (lambda: find_building(9), NotFound),
        (lambda: update_building(ACTOR, 1, {"time_zone": "Mars"}, NOW), Invalid),
    ],
)
def test_an_error_has_its_kind_and_names_no_command(
    commands: Commands, action: Callable[[], object], kind: type[ActionError]
) -> None:
    commands.leads({})
    with commands.database(), pytest.raises(kind) as refused:
        action()
    assert "'building" not in str(refused.value)
