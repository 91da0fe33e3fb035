"""Customers that an older rule merged: the upgrade marks them, the doctor names them, a split parts them."""

import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import NOW, Commands
from conftest import SteppedClock, running_harness
from test_audit import entries

from jobs.doctor.database import check_merged_customers
from models.check_result import OK, WARNING
from models.clock import utc_text
from models.customer import Customer
from models.lead import Lead
from models.spam import RecentText
from models.storage.sqlite.inspect import ask_immutable

OLD_RULE = "the rule that merged customers ended before PostgreSQL came"
SCHEMAS = Path(__file__).parent / "schemas"
FLAGGED = "the customer is flagged as spam"
LEAD = {
    "message": "Two lines,\nand a 🌻",
    "slot": "2026-12-01T10:00:00.000000Z",
    "sent_slot": "2026-12-01T10:00",
    "unit_preference": "4B",
    "property_type": "listing",
    "utm_data": '{"utm_source":"x"}',
    "lead_source": "website",
    "sms_consent": 1,
    "sms_consent_at": "2026-11-24T15:00:00.000000Z",
    "sms_consent_ip": "192.0.2.1",
    "building_id": 1,
}


class OldDatabase:
    """A database of schema 5, to which customers and leads are added as the program of then stored them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lead = 100

    def insert(self, table: str, **values: Any) -> None:
        with closing(sqlite3.connect(self.file)) as connection, connection:
            names, marks = ", ".join(values), ", ".join("?" * len(values))
            connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(values.values()))

    def customer(self, row_id: int, name: str, email: str, phone: Any, key: Any, *, spam: int = 0) -> None:
        columns = {"id": row_id, "name": name, "email": email, "email_key": email.lower(), "spam": spam}
        self.insert("customer", **columns, phone=phone, phone_key=key, created_at=utc_text(NOW))

    def lead(self, customer: int, name: Any, email: Any, phone: Any, skipped: str | None = None) -> int:
        """Add a lead with its deal and its mail; return its id, which numbers the mail as well."""
        self._lead += 1
        number, at = self._lead, utc_text(NOW + timedelta(minutes=self._lead))
        renter = {"requestor_name": name, "requestor_email": email, "requestor_phone": phone}
        self.insert(
            "lead", id=number, request_id=f"{number}", created_at=at, customer_id=customer, **renter, **LEAD
        )
        self.insert("deal", id=number, lead_id=number, stage_id=2, created_at=at)
        state = {"state": "skipped" if skipped else "delivered", "reason": skipped, "settled_at": at}
        self.insert("delivery", id=number, lead_id=number, kind="email", **state)
        self.insert("delivery_attempt", delivery_id=number, number=1, started_at=at, outcome="delivered")
        return number


@pytest.fixture
def old(commands: Commands) -> OldDatabase:
    commands.data_dir.mkdir(mode=0o700)
    shutil.copyfile(SCHEMAS / "schema-5.db", commands.data_dir / "leads.db")
    return OldDatabase(commands.data_dir / "leads.db")


@pytest.fixture
def merged(old: OldDatabase) -> OldDatabase:
    """Customers 20 and 21 hold other renters' leads; the others' leads are rightly theirs."""
    old.customer(20, "Ann", "Ann@renter.test", "N/A", "N/A", spam=1)
    old.lead(20, "Ann", "Ann@renter.test", "N/A")  # 101
    old.lead(20, "Bob", "bob@renter.test", "N/A", skipped=FLAGGED)  # 102
    old.lead(20, "Cy", "cy@renter.test", "N/A", skipped=FLAGGED)  # 103
    old.lead(20, "Bobby", "BOB@renter.test", "n/a", skipped=FLAGGED)  # 104
    old.customer(21, "Dee", "dee@office.test", "(555) 765-4321 x12", "+15557654321")
    old.lead(21, "Dee", "dee@office.test", "(555) 765-4321 x12")  # 105
    old.lead(21, "Eve", "eve@office.test", "(555) 765-4321 ext. 34")  # 106
    old.lead(21, "Dee", "dee@home.test", "+15557654321;ext=12")  # 107
    old.customer(22, "Fay", "fay@renter.test", "(555) 222-3456 (cell)", "+155522234562355")
    old.lead(22, "Fay", "fay@renter.test", "(555) 222-3456 (cell)")  # 108
    old.lead(22, "Fay", "fay@work.test", "(555) 222-3456 (cell)")  # 109
    old.customer(23, "Gus", "gus@renter.test", "+15553334567", "+15553334567")
    old.lead(23, "Gus", "gus@renter.test", "N/A")  # 110
    old.lead(23, "Gus", "GUS@renter.test", "+15553334567")  # 111
    old.lead(23, "Gus", "gus@work.test", "555.333.4567")  # 112
    old.customer(24, "Cy", "cy@renter.test", None, None)  # also a customer of his own
    old.lead(24, "Cy", "cy@renter.test", None)  # 113
    return old


def customers(commands: Commands) -> dict[int, tuple[str, str | None, list[int]]]:
    """Return e-mail, phone and leads of the customers that a test added."""
    return {
        row["id"]: (row["email"], row["phone"], commands.row("customer", "show", row["id"])["leads"])
        for row in reversed(commands.rows("customer", "list"))
        if row["id"] >= 20
    }


BEFORE = {
    20: ("Ann@renter.test", None, [101, 102, 103, 104]),
    21: ("dee@office.test", "(555) 765-4321 x12", [105, 106, 107]),
    22: ("fay@renter.test", "(555) 222-3456 (cell)", [108, 109]),
    23: ("gus@renter.test", "+15553334567", [110, 111, 112]),
    24: ("cy@renter.test", None, [113]),
}
AFTER = {
    **BEFORE,
    20: ("Ann@renter.test", None, [101]),
    21: ("dee@office.test", "(555) 765-4321 x12", [105, 107]),
    24: ("cy@renter.test", None, [103, 113]),
    25: ("bob@renter.test", None, [102, 104]),
    26: ("eve@office.test", "(555) 765-4321 ext. 34", [106]),
}


@pytest.mark.sqlite(OLD_RULE)
def test_C19_an_upgrade_marks_customers_that_hold_strangers(commands: Commands, merged: OldDatabase) -> None:
    assert [row["id"] for row in commands.rows("customer", "list", "--merged")] == [21, 20]
    assert customers(commands) == BEFORE


@pytest.mark.sqlite(OLD_RULE)
def test_the_doctor_names_merged_customers_until_split(commands: Commands, merged: OldDatabase) -> None:
    before = merged.file.read_bytes()
    assert ask_immutable(merged.file, check_merged_customers).state == OK  # of schema 5: not known yet
    assert merged.file.read_bytes() == before
    commands.run("customer", "list")
    result = ask_immutable(merged.file, check_merged_customers)
    assert (result.id, result.title, result.state) == ("merged_customers", "customers", WARNING)
    assert result.found.startswith("2 with leads of several renters") and result.found.endswith(": 20, 21")
    assert result.fix and "'customer split ID'" in result.fix
    commands.run("customer", "split", 20)
    assert ask_immutable(merged.file, check_merged_customers).found.endswith(": 21")
    commands.run("customer", "erase", 21, "--yes")
    assert ask_immutable(merged.file, check_merged_customers).state == OK
    assert commands.rows("customer", "list", "--merged") == []


@pytest.mark.sqlite(OLD_RULE)
def test_a_split_moves_leads_to_their_own_customers(commands: Commands, merged: OldDatabase) -> None:
    whole = {number: commands.row("lead", "show", number) for number in range(101, 114)}
    assert commands.run("customer", "split", 20).stdout.splitlines() == [
        "Customer 20 is split. Leads moved: 3, to customers: 2.",
        "Moved to customer 24 (cy@renter.test): lead 103",
        "Moved to customer 25 (bob@renter.test): leads 102, 104",
        "The spam flag stays with customer 20.",
        "Mails of moved leads that were skipped, as the customer was flagged as spam: 3.",
        "To send them: outbox retry 102 103 104",
    ]
    split = commands.row("customer", "split", 21)
    assert split["moved"] == [{"customer_id": 26, "email": "eve@office.test", "leads": [106]}]
    assert (split["id"], split["skipped_mails"]) == (21, [])
    assert customers(commands) == AFTER
    rows = {row["id"]: row for row in commands.rows("customer", "list")}
    assert [row_id for row_id in range(20, 27) if rows[row_id]["spam"]] == [20]
    assert [(rows[i]["name"], rows[i]["created_at"]) for i in (25, 26)] == [
        ("Bob", whole[102]["created_at"]),
        ("Eve", whole[106]["created_at"]),
    ]
    for number, lead in whole.items():
        now = commands.row("lead", "show", number)
        assert {**now, "customer": None} == {**lead, "customer": None}
    assert commands.row("outbox", "retry", 102, 103, 104) == {"retried": [102, 103, 104]}
    assert commands.rows("customer", "list", "--merged") == []


@pytest.mark.sqlite(OLD_RULE)
def test_C24b_a_split_names_no_mail_that_was_sent_again(commands: Commands, merged: OldDatabase) -> None:
    commands.run("customer", "list")  # upgrades the database
    commands.run("lead", "send", 103, "--to", "boss@office.test")
    assert commands.row("customer", "split", 20)["skipped_mails"] == [102, 104]


@pytest.mark.sqlite(OLD_RULE)
def test_a_second_split_finds_nothing(commands: Commands, merged: OldDatabase) -> None:
    for row_id in (20, 21):
        commands.run("customer", "split", row_id)
    written = entries(commands)
    assert [entry for entry in written if entry[0] == "customer.split"] == [
        ("customer.split", "customer", "20", []),
        ("customer.split", "customer", "21", []),
    ]
    for row_id in (20, 21, 22, 23, 24, 25, 26):
        said = commands.run("customer", "split", row_id).stdout
        assert said == f"There is nothing to split: customer {row_id} holds leads of one renter.\n"
    assert commands.row("customer", "split", 20)["moved"] == []
    assert customers(commands) == AFTER
    assert entries(commands) == written


@pytest.mark.sqlite(OLD_RULE)
def test_an_erased_or_unknown_customer_is_not_split(commands: Commands, merged: OldDatabase) -> None:
    assert commands.refusal("customer", "split", 99) == "there is no customer 99; see 'customer list'"
    status, shown = commands.on_terminal("customer", "erase", 20, typed="20\n")
    assert status == 0 and "'customer split 20' moves them first" in shown
    assert "nothing to split" in commands.run("customer", "split", 20).stdout
    assert len(commands.row("customer", "show", 20)["leads"]) == 4


@pytest.mark.sqlite(OLD_RULE)
def test_a_split_moves_texts_of_the_flood_check(commands: Commands, merged: OldDatabase) -> None:
    with commands.database():
        for lead in (101, 102):
            RecentText.create(building=1, digest=b"x", lead=lead, customer=20, created_at=NOW)
    commands.run("customer", "split", 20)
    with commands.database():
        texts = RecentText.select(RecentText.lead, RecentText.customer).order_by(RecentText.lead)
        assert list(texts.tuples()) == [(101, 20), (102, 25)]


@pytest.mark.sqlite(OLD_RULE)
def test_a_split_of_many_leads_moves_all(commands: Commands, old: OldDatabase) -> None:
    old.customer(20, "Ann", "ann@renter.test", "000-000-0000", "+10000000000")
    with closing(sqlite3.connect(old.file)) as connection, connection:
        connection.executemany(
            "INSERT INTO lead (id, request_id, created_at, customer_id, requestor_email, requestor_phone,"
            " property_type, lead_source, sms_consent)"
            " VALUES (?, 'r', '2026-11-23T15:00:00.000000Z', 20, ?, ?, 'building', 'website', 0)",
            [
                (i, f"renter{i % 700}@renter.test", "none" if i % 2 else "555 123 9999")
                for i in range(100, 1900)
            ],
        )
    split = commands.row("customer", "split", 20)
    emails = {part["email"]: part["leads"] for part in split["moved"]}
    assert sum(map(len, emails.values())) == 1800
    assert all(
        f"renter{lead % 700}@renter.test" == email
        for email, ids in emails.items()
        for lead in ids
        if lead % 2
    )
    said = commands.run("customer", "split", 20).stdout
    assert said.startswith("There is nothing to split")


@pytest.mark.sqlite(OLD_RULE)
async def test_a_server_matches_as_the_split_did(
    commands: Commands, merged: OldDatabase, clock: SteppedClock, io_loop: object
) -> None:
    for row_id in (20, 21):
        commands.run("customer", "split", row_id)
    async with running_harness(commands.data_dir, clock) as harness:
        for email, phone, customer in [
            ("bob@renter.test", "N/A", 25),
            ("new@renter.test", "N/A", 27),
            ("eve@home.test", "555-765-4321 #34", 26),
            ("fay@home.test", "+15552223456", 22),
            ("ann@renter.test", "555 444 5678", 20),
        ]:
            lead = await harness.lead(requestor_email=email, requestor_phone=phone)
            assert (await harness.stored(lead))["customer"]["id"] == customer
        assert (await harness.stored(lead))["customer"]["phone"] == "555 444 5678"


@pytest.mark.sqlite(OLD_RULE)
def test_an_upgrade_survives_nonsense_in_columns(commands: Commands, old: OldDatabase) -> None:
    for row_id, phone in enumerate([b"\xff\x00", 5551234567, 1.5, b"", "\x00", "x" * 5000, "1/" * 3000], 20):
        old.customer(row_id, "Ann", f"ann{row_id}@renter.test", phone, phone)
        old.lead(row_id, b"\xff", f"ann{row_id}@renter.test", phone)
        old.lead(row_id, 5, f"ann{row_id}@@renter", phone)
        old.lead(row_id, None, b"\xff@\x00", b"\xfe")
    with closing(sqlite3.connect(old.file)) as connection, connection:
        connection.execute("UPDATE customer SET phone = CAST(x'ff35' AS TEXT) WHERE id = 20")
        connection.execute("UPDATE lead SET requestor_email = CAST(x'ff35' AS TEXT) WHERE id = 101")
    merged = {row["id"] for row in commands.rows("customer", "list", "--merged")}
    assert merged == {20, 21, 22, 23, 24, 25, 26}
    with closing(sqlite3.connect(old.file)) as connection:
        rows = connection.execute("SELECT phone, phone_key FROM customer WHERE id >= 20 ORDER BY id")
        assert [tuple(row) for row in rows] == [
            ("5551234567", "+15551234567") if row_id == 21 else (None, None) for row_id in range(20, 27)
        ]


@pytest.mark.sqlite(OLD_RULE)
def test_a_split_leaves_no_data_of_a_stranger(commands: Commands, old: OldDatabase) -> None:
    """The older rule filled in a stranger's name; an erasure of the stranger must not miss it."""
    old.customer(20, "Bob Stranger", "anna@renter.test", "000-000-0000", "000-000-0000")
    old.lead(20, None, "anna@renter.test", "000-000-0000")
    old.lead(20, "Bob Stranger", "bob@renter.test", "000-000-0000")
    commands.run("customer", "split", 20)
    rows = {row["email"]: row for row in commands.rows("customer", "list") if row["id"] >= 20}
    assert rows["anna@renter.test"]["name"] is None
    assert rows["bob@renter.test"]["name"] == "Bob Stranger"


def test_a_split_works_on_either_database(commands: Commands) -> None:
    commands.leads({}, {"name": "Bob", "email": "bob@renter.test", "phone": None})
    with commands.database():  # as a merged customer of before stands in a moved database
        Lead.update(customer=1).execute()
        Customer.delete().where(Customer.id == 2).execute()
        Customer.update(merged=True).execute()
    [moved] = commands.row("customer", "split", 1)["moved"]
    assert (moved["email"], moved["leads"]) == ("bob@renter.test", [2])
    emails = [row["email"] for row in commands.rows("customer", "list")]
    assert emails == ["bob@renter.test", "ann@renter.test"]
    assert commands.rows("customer", "list", "--merged") == []
