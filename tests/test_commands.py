"""The operator's commands, each run as a process of its own on real files."""

import csv
import io
import json
import os
import random
import re
import sqlite3
import stat
import subprocess
import urllib.request
from collections import Counter
from datetime import datetime, timedelta

import databases
import pytest
from command_line import NOW, Commands
from server_process import started

from models.customer import Customer
from models.outbox.delivery import FAILED, Delivery
from models.outbox.destination import EMAIL, Destination

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


def test_the_program_alone_prints_its_commands(commands: Commands) -> None:
    shown = commands.run().stdout
    for word in ("serve", "sandbox", "demo", "building", "token", "lead", "customer", "outbox", "config"):
        assert f"\n    {word}" in shown


@pytest.mark.parametrize(
    "args",
    [
        "nonsense",
        "building show 99999999999999999999",
        "building update 1",
        "lead list --since yesterday",
        "token rotate 1 --overlap week",
        "outbox pause fax",
        "outbox retry",
        "outbox retry 1 --kind email",
        "lead list --building 1 --unassigned",
        "demo --data-dir elsewhere",
        "sandbox --smtp-url smtp://mail.example.com",
    ],
)
def test_an_invalid_command_exits_with_status_2(commands: Commands, args: str) -> None:
    commands.data_dir.mkdir()
    commands.leads({})
    assert "usage: " in commands.run(*args.split(), status=2).stderr


@pytest.mark.sqlite("a folder says nothing of PostgreSQL's databases")
def test_listing_a_missing_folder_is_refused_and_creates_nothing(commands: Commands) -> None:
    for command in ("lead list", "building show 1"):
        said = commands.refusal(*command.split(), "--data-dir", "nowhere")
        assert said == "there is no leads.db in nowhere; give --data-dir"
    assert not commands.data_dir.exists()
    assert not (commands.data_dir.parent / "nowhere").exists()


def test_a_building_is_added_shown_updated_and_removed(commands: Commands) -> None:
    everything = {
        "--name": "Maple Court",
        "--address": "1 Maple St",
        "--unified-address-id": "ua-1",
        "--website": "https://maple.test",
        "--agent-email": "agent@maple.test",
        "--time-zone": "America/New_York",
        "--token": "maple",
    }
    added = commands.run(
        "building", "add", *(word for option in everything.items() for word in option), "--json"
    )
    assert added.stderr == ""  # nothing is missing
    building = json.loads(added.stdout)
    assert list(building)[:1] == ["id"] and building.pop("token") == "maple"
    assert {**building, "created_at": None} == {
        "id": 1,
        "name": "Maple Court",
        "address_line_one": "1 Maple St",
        "unified_address_id": "ua-1",
        "website_url": "https://maple.test",
        "website_urls": ["https://maple.test"],
        "agent_email": "agent@maple.test",
        "time_zone": "America/New_York",
        "spam_defence": "off",
        "created_at": None,
        "tokens": ["maple"],
    }
    assert commands.row("building", "show", 1) == building
    assert commands.rows("building", "list") == [building]

    changed = commands.row("building", "update", 1, "--name", "Maple House", "--address", "")
    assert changed == {**building, "name": "Maple House", "address_line_one": None}

    assert "its leads stay" in commands.run("building", "remove", 1).stdout
    assert commands.rows("building", "list") == []
    assert commands.rows("token", "list") == []
    assert commands.refusal("building", "show", 1) == "there is no building 1; see 'building list'"


def test_adding_a_building_prints_its_token_and_missing_fields(commands: Commands) -> None:
    commands.settings["public_url"] = "https://leads.test"
    added = commands.run("building", "add", "--name", "Oak")
    [token] = commands.row("building", "show", 1)["tokens"]
    assert "Building 1 was added: Oak" in added.stdout
    assert f"Its token: {token}" in added.stdout
    assert 'as "token" to https://leads.test/api/v1/website_leads' in added.stdout
    mail, website = added.stderr.splitlines()
    assert "'building update 1 --agent-email" in mail and "'building update 1 --add-website" in website


@pytest.mark.sqlite("with PostgreSQL a command makes no file")
def test_files_that_a_command_makes_are_private(commands: Commands) -> None:
    commands.run("building", "add", "--name", "Oak")
    for path in (commands.data_dir, *commands.data_dir.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, f"others can read {path}"


@pytest.mark.parametrize(
    "options, said",
    [
        (["--time-zone", "Mars/Base"], "'Mars/Base' is not a time zone; write it like America/New_York"),
        (["--agent-email", "nobody"], "'nobody' is not an e-mail address: "),
        (["--website", "maple"], "'maple' is not a website's URL; write it like https://www.example.com"),
        (["--token", "maple"], "token 'maple' belongs to building 1 already"),
        (["--address", "1 Oak\x1b[2J"], "the address line one has line breaks or control characters in it"),
    ],
)
def test_a_building_with_an_invalid_value_is_not_stored(
    commands: Commands, options: list[str], said: str
) -> None:
    commands.leads({})
    assert commands.refusal("building", "add", "--name", "Oak", *options).startswith(said)
    with commands.database():
        assert Customer._meta.database.execute_sql("SELECT count(*) FROM building").fetchone() == (1,)


def test_several_websites_are_added_listed_and_removed(commands: Commands) -> None:
    apex, www, staging = "https://maple.test", "https://www.maple.test", "http://localhost:3000/x"
    added = commands.row("building", "add", "--name", "Maple", "--website", apex, "--website", www)
    assert (added["website_url"], added["website_urls"]) == (apex, [apex, www])
    update = ("building", "update", 1)
    assert commands.row(*update, "--add-website", staging)["website_urls"] == [apex, www, staging]
    assert f"{apex}, {www}, {staging}" in commands.run("building", "list").stdout
    assert f"{apex}, {www}, {staging}" in commands.run("building", "show", 1).stdout
    left = commands.row(*update, "--remove-website", "http://localhost:3000", "--add-website", www + "/")
    assert left["website_urls"] == [apex, www]

    said = commands.refusal(*update, "--name", "Oak", "--remove-website", "https://oak.test")
    assert said == "building 1 has no website 'https://oak.test'; see 'building show 1'"
    assert commands.refusal(*update, "--name", "Oak", "--add-website", "oak").startswith("'oak' is not a web")
    shown = commands.row("building", "show", 1)
    assert (shown["name"], shown["website_urls"]) == ("Maple", [apex, www])

    cleared = commands.run(*update, "--website", "")
    assert "'building update 1 --add-website https://…' adds one" in cleared.stderr
    assert (commands.row("building", "show", 1)["website_url"], shown["website_url"]) == (None, apex)
    assert commands.row(*update, "--website", www)["website_urls"] == [www]
    assert commands.row("building", "remove", 1)["website_urls"] == [www]


def test_tokens_are_issued_listed_and_revoked(commands: Commands) -> None:
    commands.leads({})
    assert commands.row("token", "issue", 1, "--token", "second")["token"] == "second"
    made = commands.row("token", "issue", 1)["token"]
    assert len(made) >= 20 and made.isalnum()  # no first character makes it an option
    assert [t["token"] for t in commands.rows("token", "list", 1)] == ["maple", "second", made]
    assert "belongs to building 1 already" in commands.refusal("token", "issue", 1, "--token", "second")

    assert commands.row("token", "revoke", "second")["state"] == "revoked"
    assert "was revoked at" in commands.refusal("token", "revoke", "second")
    assert "no such token" in commands.refusal("token", "revoke", "third")
    assert commands.row("building", "show", 1)["tokens"] == ["maple", made]


def test_a_rotated_token_expires_after_the_overlap(commands: Commands) -> None:
    commands.leads({})
    new = commands.row("token", "rotate", 1, "--overlap", "2h")
    old, listed = commands.rows("token", "list")
    assert listed == new and new["state"] == "working" and new["expires_at"] is None
    assert old["state"] == "working"
    overlap = datetime.fromisoformat(old["expires_at"]) - datetime.fromisoformat(new["created_at"])
    assert overlap == timedelta(hours=2)

    newest = commands.run("token", "rotate", 1, "--overlap", "0s")
    states = [token["state"] for token in commands.rows("token", "list")]
    assert states == ["expired", "expired", "working"]
    assert "its older ones work until" in newest.stdout

    left = commands.row("building", "show", 1)["tokens"]
    assert "'token issue 1' gives it one" in commands.run("token", "revoke", *left).stderr


def test_leads_are_listed_newest_first_by_building_time_and_limit(commands: Commands) -> None:
    later = NOW + timedelta(days=1)
    commands.leads({}, {"token": "unknown"}, {"at": later, "email": "bob@renter.test", "phone": None})
    assert [lead["id"] for lead in commands.rows("lead", "list")] == [3, 2, 1]
    assert [lead["id"] for lead in commands.rows("lead", "list", "--building", 1)] == [3, 1]
    assert [lead["id"] for lead in commands.rows("lead", "list", "--unassigned")] == [2]
    assert [lead["id"] for lead in commands.rows("lead", "list", "--customer", 1)] == [2, 1]
    assert [lead["id"] for lead in commands.rows("lead", "list", "--since", "2026-11-24T10:00-05:00")] == [3]
    assert commands.run("lead", "list", "--since", "2026-11-25").stdout == "There are no such leads.\n"
    assert commands.refusal("lead", "list", "--building", 9) == "there is no building 9; see 'building list'"

    table = commands.run("lead", "list").stdout.splitlines()
    assert table[0].split()[:3] == ["id", "received", "building"]
    assert "unassigned" in table[2] and "email skipped" in table[2]
    assert all(line.index("2026-") == table[0].index("received") for line in table[1:])


def test_a_lead_as_json_has_the_documented_keys(commands: Commands) -> None:
    commands.leads(
        {"listing_source": "june_homes", "message": "Hello\nthere", "utm_data": {"utm_source": "x"}}
    )
    [lead] = commands.rows("lead", "list")
    assert (
        list(lead)
        == (
            "id created_at building_id customer requestor_name requestor_email requestor_phone message slot"
            " unit_preference property_type utm_data listing_source listing_source_original_id request_host"
            " website"
            " sms_consent lead_source deal deliveries"
        ).split()
    )
    assert list(lead["customer"]) == ["id", "email", "name", "phone", "spam"]
    assert lead["deal"] == {"id": 1, "stage": "new"}
    assert [list(delivery) for delivery in lead["deliveries"]] == [
        ["kind", "state", "attempts", "reason"]
    ] * 2

    shown = commands.row("lead", "show", 1)
    assert {**shown, **lead} == shown
    assert shown["sent"]["token"] == "maple" and shown["attempts"] == []
    for_people = commands.run("lead", "show", 1).stdout
    assert "requestor_email" in for_people and "utm_data.utm_source" in for_people
    lines = for_people.splitlines()
    [first] = [number for number, line in enumerate(lines) if line.endswith("  Hello")]
    assert lines[first + 1].strip() == "there"
    assert commands.refusal("lead", "show", 2) == "there is no lead 2; see 'lead list'"


def test_a_csv_export_is_flat_and_safe_in_a_spreadsheet(commands: Commands) -> None:
    nasty = [
        "=cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(1)",
        "\tx",
        "'quoted",
        'plain, with "quotes"\nand lines',
        "Zoë",
    ]
    commands.leads(*({"message": text} for text in nasty), {"phone": None, "listing_source": "june_homes"})
    text = commands.run("lead", "export").stdout
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [int(row["id"]) for row in rows] == list(range(1, 9))  # the oldest first
    for row, message in zip(rows, nasty, strict=False):
        assert not row["message"].startswith(("=", "+", "-", "@", "\t"))
        assert row["message"].removeprefix("'") == message if row["message"][0] == "'" else message
    assert rows[0]["requestor_phone"] == "'+1 555 123 4567"  # else a spreadsheet reads a number
    assert rows[0]["customer_email"] == "ann@renter.test" and rows[0]["customer_spam"] == "false"
    assert rows[0]["deal_stage"] == "new"
    assert rows[0]["email_state"] == "pending" and rows[0]["june_homes_state"] == ""
    assert rows[7]["june_homes_state"] == "pending"
    assert rows[7]["requestor_phone"] == ""
    assert not [name for name in rows[0] if name is None]


def test_an_exported_file_is_private_and_overwrites_nothing(commands: Commands) -> None:
    commands.leads({"message": "+1"}, {})
    target = commands.data_dir.parent / "leads.jsonl"
    done = commands.run("lead", "export", "--format", "json", "--output", target)
    assert done.stdout == "" and done.stderr == f"2 leads are in {target}\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    exported = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert exported == list(reversed(commands.rows("lead", "list")))
    assert exported[0]["message"] == "+1"  # as it was sent
    before = target.read_bytes()
    assert commands.refusal("lead", "export", "--output", target).startswith(f"{target} is there already")
    assert target.read_bytes() == before
    assert commands.refusal("lead", "export", "--output", "no/x.csv") == "no/x.csv: No such file or directory"


def test_an_export_on_a_terminal_shows_progress(commands: Commands) -> None:
    commands.leads({}, {})
    status, shown = commands.on_terminal("lead", "export", "--output", "out.csv")
    assert status == 0 and "2 of 2 leads" in shown and "2 leads are in out.csv" in shown


def test_customers_are_listed_found_and_flagged(commands: Commands) -> None:
    commands.leads({}, {"email": "bob@renter.test", "phone": None, "name": None})
    assert [customer["id"] for customer in commands.rows("customer", "list")] == [2, 1]
    [ann] = commands.rows("customer", "list", "--email", "Ann@Renter.test")
    assert list(ann) == ["id", "email", "name", "phone", "spam", "created_at", "erased_at"]
    assert commands.row("customer", "show", 1) == {**ann, "leads": [1]}
    assert commands.row("customer", "flag-spam", 1)["spam"] is True
    commands.leads({})
    assert commands.rows("lead", "list", "--limit", 1)[0]["deliveries"][0]["state"] == "skipped"
    assert "agents are mailed" in commands.run("customer", "unflag-spam", 1).stdout
    assert commands.row("customer", "show", 1) == {**ann, "leads": [1, 3]}
    for verb in ("show", "erase"):
        assert commands.refusal("customer", verb, 9) == "there is no customer 9; see 'customer list'"
    assert "is not an e-mail address" in commands.refusal("customer", "list", "--email", "ann")


@pytest.mark.sqlite("it is about the pages of the file")
def test_an_erased_customer_leaves_no_trace_on_disk(commands: Commands) -> None:
    # With so many customers index pages split, which leaves copies of keys that deleting does not reach. The
    # customer to erase is one with more copies than others.
    number = random.Random(1)
    keys = [f"z{number.getrandbits(64):016x}" for _ in range(2_000)]
    for start in range(0, len(keys), 200):
        commands.leads(
            *(
                {"email": f"{key}@renter.test", "phone": f"{key}p", "name": key, "message": f"{key} " * 20}
                for key in keys[start : start + 200]
            )
        )
    copies = Counter(re.findall(b"z[0-9a-f]{16}", databases.contents(commands.data_dir))).most_common()
    assert copies[0][1] > copies[-1][1], "no page has split: the test needs more customers"
    key, other = copies[0][0], copies[-1][0]
    customer = lead = keys.index(key.decode()) + 1
    with commands.database():  # a mail server's reply may quote the renter
        Delivery.update(state=FAILED, reason=f"550 {key.decode()}").where(Delivery.lead == lead).execute()

    said = commands.run("customer", "erase", customer, "--yes").stdout
    assert f"Customer {customer} is erased" in said and "Backups" in said
    left = databases.contents(commands.data_dir)
    assert key not in left and other in left
    record = commands.row("lead", "show", lead)
    assert record["requestor_email"] is None
    assert record["deliveries"][0]["reason"] == "the customer was erased"
    assert "can't leave: the customer was erased" in commands.refusal("outbox", "retry", lead)
    assert (
        commands.row("customer", "erase", customer, "--yes")["erased_leads"] == 0
    )  # erasing twice is harmless


def test_erasing_asks_first_and_accepts_only_the_id(commands: Commands) -> None:
    commands.leads({})
    said = commands.refusal("customer", "erase", 1, stdin="1\n")
    assert said == "erasing can't be undone; give --yes where nobody can be asked"
    status, shown = commands.on_terminal("customer", "erase", 1, typed="yes\n")
    assert status == 1 and "(Ann Lee, ann@renter.test) type 1: " in shown and "nothing was erased" in shown
    assert commands.row("customer", "show", 1)["erased_at"] is None
    status, shown = commands.on_terminal("customer", "erase", 1, typed="1\n")
    assert status == 0 and "Customer 1 is erased" in shown
    assert commands.row("customer", "show", 1)["email"] is None


def test_the_outbox_lists_waiting_deliveries_with_the_reason(commands: Commands) -> None:
    commands.leads({}, {"listing_source": "june_homes"}, {"token": None})
    shown = commands.run("outbox", "list").stdout.splitlines()
    assert shown[0] == "email: no destination: LEADS_SMTP_URL is not set; 2 waiting, 0 sending, 0 failed"
    assert shown[1].startswith("june_homes: no destination: LEADS_JUNE_HOMES_URL is not set; 1 waiting")
    deliveries = commands.rows("outbox", "list")
    assert [delivery["id"] for delivery in deliveries] == [4, 3, 2, 1]
    assert list(deliveries[0]) == (
        "id lead_id kind content recipient state attempts reason answer due_at settled_at".split()
    )
    recipients = [delivery["recipient"] for delivery in deliveries]
    assert recipients == [None, None, "agent@maple.test", "agent@maple.test"]
    assert [d["id"] for d in commands.rows("outbox", "list", "--state", "skipped")] == [4]
    assert [d["id"] for d in commands.rows("outbox", "list", "--kind", "june_homes")] == [3]
    assert "There are no such deliveries." in commands.run("outbox", "list", "--state", "failed").stdout


def test_a_paused_kind_waits_until_it_is_resumed(commands: Commands) -> None:
    commands.leads({})
    with commands.database():
        Destination.update(configured=True).execute()
    assert commands.run("outbox", "pause", "email").stdout.startswith(
        "email: paused by the operator; 1 waiting"
    )
    assert commands.rows("outbox", "list")[0]["reason"] == "paused by the operator"
    resumed = commands.row("outbox", "resume", "email")
    assert resumed["paused"] is False and resumed["waits_because"] is None
    assert "email: open; 1 waiting" in commands.run("outbox", "list").stdout


def test_failed_deliveries_are_retried_by_id_or_all_at_once(commands: Commands) -> None:
    commands.leads({}, {}, {"listing_source": "june_homes"})
    with commands.database():
        Delivery.update(state=FAILED, reason="550 no", failures=14, due_at=None).execute()
    retried = commands.run("outbox", "retry", 1)
    assert retried.stdout == "Due now: delivery 1\n"
    assert "LEADS_SMTP_URL is not set" in retried.stderr  # due, and yet it waits
    assert commands.row("outbox", "retry", "--failed", "--kind", "june_homes") == {"retried": [4]}
    assert [d["id"] for d in commands.rows("outbox", "list", "--state", "pending")] == [4, 1]
    assert commands.row("outbox", "retry", "--failed") == {"retried": [2, 3]}
    assert commands.run("outbox", "retry", "--failed").stdout == "Nothing has failed.\n"
    assert commands.refusal("outbox", "retry", 1, 99) == "there is no delivery 99; see 'outbox list'"
    with commands.database():
        assert Delivery.get_by_id(1).failures == 0
        Delivery.update(state="delivered").where(Delivery.kind == EMAIL).execute()
    assert commands.refusal("outbox", "retry", 4, 1) == (
        "delivery 1 is delivered already; 'lead send 1' sends the lead again"
    )


def test_control_characters_of_a_renter_never_reach_a_terminal(commands: Commands) -> None:
    commands.leads({"name": f"Ann{ESCAPES}", "message": f"Hi\n{ESCAPES}", "utm_data": {ESCAPES: ESCAPES}})
    with commands.database():
        Destination.update(configured=True, hold_until=NOW + timedelta(days=9_999), reason=ESCAPES).execute()
    for command in (
        "lead list",
        "lead show 1",
        "lead export",
        "lead export --json",
        "lead list --json",
        "outbox list",
    ):
        status, shown = commands.on_terminal(*command.split())
        assert status == 0 and "owned" in shown, command
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown), command
    assert commands.rows("lead", "list")[0]["customer"]["name"] == f"Ann{ESCAPES}"  # JSON loses nothing
    status, shown = commands.on_terminal("customer", "erase", 1, typed="no\n")
    assert "owned" in shown and "\x1b" not in shown


def test_tables_are_cut_to_terminal_width_only(commands: Commands) -> None:
    commands.leads({"name": "Ann " * 50}, {"name": "李小龍" * 20, "email": "li@renter.test", "phone": None})
    _, shown = commands.on_terminal("lead", "list", columns=70)
    for line in shown.splitlines():
        assert sum(2 if "一" <= character <= "鿿" else 1 for character in line) <= 70
    assert "…" in shown
    assert ("Ann " * 50).strip() in commands.run("lead", "list").stdout


def test_a_closed_pipe_or_a_full_disk_crashes_no_command(commands: Commands) -> None:
    commands.leads({})
    command, variables = commands.arguments("lead", "list", "--json")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, env=variables, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, env=variables, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"leads: No space left on device\n")


@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&- <&-"])
def test_a_command_with_closed_outputs_does_its_work(commands: Commands, closed: str) -> None:
    commands.leads({})
    command, variables = commands.arguments("customer", "flag-spam", 1)
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], env=variables, timeout=60)
    assert done.returncode == 0
    assert commands.row("customer", "show", 1)["spam"] is True


@pytest.mark.sqlite("backups of PostgreSQL are made by its own programs")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&- <&-"])
def test_a_backup_with_closed_outputs_is_made(commands: Commands, closed: str) -> None:
    commands.leads({})
    command, variables = commands.arguments("backup", "create")
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], env=variables, timeout=60)
    assert done.returncode == 0
    [backup] = commands.rows("backup", "list")
    assert commands.row("backup", "verify", backup["path"])["leads"] == 1


@pytest.mark.sqlite("it is about the file")
def test_an_unusable_database_is_refused_and_left_unchanged(commands: Commands) -> None:
    commands.leads({})
    file = commands.data_dir / "leads.db"
    good = file.read_bytes()

    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    newer = file.read_bytes()
    assert "run the newer version of this program" in commands.refusal("lead", "list")
    assert file.read_bytes() == newer

    file.write_bytes(b"not a database at all" * 500)
    assert "is corrupt" in commands.refusal("building", "add", "--name", "Oak")
    assert file.read_bytes() == b"not a database at all" * 500

    file.write_bytes(good)
    assert len(commands.rows("lead", "list")) == 1


@pytest.mark.sqlite("it is about the lock of the file")
def test_a_locked_database_is_one_line_and_changes_nothing(commands: Commands) -> None:
    commands.leads({})
    locking = sqlite3.connect(commands.data_dir / "leads.db", isolation_level=None)
    locking.execute("BEGIN IMMEDIATE")
    said = commands.refusal("customer", "flag-spam", 1)
    locking.execute("ROLLBACK")
    locking.close()
    assert said == "the database failed: database is locked; nothing was changed, try again"
    assert commands.row("customer", "show", 1)["spam"] is False


def test_commands_work_beside_a_running_server(commands: Commands) -> None:
    commands.run("building", "add", "--name", "Maple", "--token", "maple")
    body = {"token": "maple", "tour_request": {"requestor_email": "traceable@renter.test"}}
    with started("serve", data_dir=str(commands.data_dir)) as server:
        request = urllib.request.Request(
            f"{server.url}/api/v1/website_leads",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        for number in (1, 2, 3):
            with urllib.request.urlopen(request) as response:
                assert json.load(response) == {"id": number}
        assert commands.row("customer", "show", 1)["leads"] == [1, 2, 3]
        assert b"traceable" in databases.contents(commands.data_dir)
        commands.run("customer", "erase", 1, "--yes")
        assert b"traceable" not in databases.contents(commands.data_dir)
        with urllib.request.urlopen(request) as response:
            assert json.load(response) == {"id": 4}
