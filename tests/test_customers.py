"""How a renter is recognised, and that each request creates a lead and a deal."""

import asyncio
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import apsw
import phonenumbers
import pytest
from conftest import ServerHarness
from hypothesis import given
from hypothesis import strategies as st

from models import customer as customers
from models.customer import Customer, Renter, find_or_create, phone_key
from models.storage.sqlite.connection import close_database, transaction
from models.storage.sqlite.folder import open_database


async def customer_of(harness: ServerHarness, **fields: str | None) -> dict[str, object]:
    found: dict[str, object] = (await harness.stored(await harness.lead(**fields)))["customer"]
    return found


async def test_C19_a_new_renter_becomes_a_customer_as_typed(harness: ServerHarness) -> None:
    customer = await customer_of(
        harness,
        requestor_email="Jane@Renter.test",
        requestor_name="Jane Doe",
        requestor_phone="(555) 123-4567",
    )
    assert customer == {
        "id": 1,
        "email": "Jane@Renter.test",
        "name": "Jane Doe",
        "phone": "(555) 123-4567",
        "spam": False,
    }


async def test_C19_an_email_matches_in_any_case(harness: ServerHarness) -> None:
    first = await customer_of(harness, requestor_email="jane@renter.test", requestor_name="Jane")
    assert await customer_of(harness, requestor_email=" JANE@Renter.TEST ", requestor_name="J. Doe") == first


async def test_C19_a_phone_matches_in_e164_when_the_email_is_new(harness: ServerHarness) -> None:
    first = await customer_of(harness, requestor_email="a@renter.test", requestor_phone="(555) 123-4567")
    for phone in ("+15551234567", "555.123.4567", "1-555-123-4567", "+1 555 123 4567"):
        found = await customer_of(harness, requestor_email="b@renter.test", requestor_phone=phone)
        assert found == first
    assert (await customer_of(harness, requestor_email="c@renter.test", requestor_phone="+445551234567"))[
        "id"
    ] == 2


async def test_C19_the_email_takes_precedence_over_the_phone(harness: ServerHarness) -> None:
    await customer_of(harness, requestor_email="a@renter.test", requestor_phone="555 111 1111")
    second = await customer_of(harness, requestor_email="b@renter.test", requestor_phone="555 222 2222")
    assert (
        await customer_of(harness, requestor_email="b@renter.test", requestor_phone="555 111 1111") == second
    )


async def test_C19_a_match_fills_in_blanks_and_overwrites_nothing(harness: ServerHarness) -> None:
    await customer_of(harness, requestor_email="a@renter.test")
    filled = await customer_of(
        harness, requestor_email="A@renter.test", requestor_name="Ann", requestor_phone="555 111 1111"
    )
    assert (filled["email"], filled["name"], filled["phone"]) == ("a@renter.test", "Ann", "555 111 1111")
    again = await customer_of(
        harness, requestor_email="a@renter.test", requestor_name="Bob", requestor_phone="555 222 2222"
    )
    assert again == filled
    by_filled_phone = await customer_of(
        harness, requestor_email="z@renter.test", requestor_phone="5551111111"
    )
    assert by_filled_phone == filled


async def test_C19_the_lead_keeps_what_was_typed(harness: ServerHarness) -> None:
    await harness.lead(requestor_email="a@renter.test", requestor_name="Ann", requestor_phone="555 111 1111")
    lead_id = await harness.lead(
        requestor_email="A@RENTER.test", requestor_name="Annie", requestor_phone="555-999-9999"
    )
    lead = await harness.stored(lead_id)
    typed = (lead["requestor_email"], lead["requestor_name"], lead["requestor_phone"])
    assert typed == ("A@RENTER.test", "Annie", "555-999-9999")
    assert lead["customer"]["name"] == "Ann"


async def test_C19_an_unparseable_phone_matches_only_itself(harness: ServerHarness) -> None:
    first = await customer_of(harness, requestor_email="a@renter.test", requestor_phone="call me")
    assert first["phone"] == "call me"
    assert await customer_of(harness, requestor_email="b@renter.test", requestor_phone="call me") == first
    assert (await customer_of(harness, requestor_email="c@renter.test", requestor_phone="Call me"))["id"] == 2


async def test_C19_renters_of_a_batch_match_customers_created_in_it(harness: ServerHarness) -> None:
    leads = [
        {"requestor_email": "a@renter.test"},
        {"requestor_email": "A@renter.test", "requestor_phone": "555 111 1111"},
        {"requestor_email": "b@renter.test", "requestor_phone": "(555) 111-1111"},
        {"requestor_email": "c@renter.test"},
    ] * 8
    await asyncio.gather(*(harness.lead(**lead) for lead in leads))

    def customers() -> list[tuple[str | None, str | None]]:
        return [(c.email_key, c.phone_key) for c in Customer.select().order_by(Customer.id)]

    found = await harness.server.storage.read(customers)
    # The order of concurrent leads is open, but no customer exists twice.
    assert len(found) in (2, 3)
    assert len(set(found)) == len(found)
    assert ("c@renter.test", None) in found


@given(st.text(max_size=40))
def test_C19_any_text_has_a_phone_key(text: str) -> None:
    key = phone_key(text)
    assert key.startswith("+") or key == text.strip()


@given(st.integers(2_000_000_000, 9_999_999_999), st.sampled_from([".", "-", " ", ""]))
def test_C19_a_national_number_is_read_as_us_in_any_grouping(number: int, mark: str) -> None:
    digits = str(number)
    grouped = mark.join((digits[:3], digits[3:6], digits[6:]))
    assert phone_key(grouped) == phone_key(f"+1 {grouped}") == f"+1{digits}"


@given(st.sampled_from([44, 49, 33, 52, 91]), st.integers(10_000_000, 999_999_999))
def test_C19_the_key_of_a_key_is_itself(country: int, number: int) -> None:
    key = phone_key(f"+{country} {number}")
    assert phone_key(key) == key
    assert phonenumbers.parse(key).country_code == country


def test_C19_of_customers_with_one_phone_the_oldest_matches(tmp_path: Path) -> None:
    now = datetime(2026, 11, 23, tzinfo=UTC)

    def renter(email: str, phone: str | None) -> Renter:
        return Renter(None, email, email, phone, phone)

    open_database(tmp_path)
    try:
        with transaction():
            find_or_create([renter("a@x.test", None), renter("b@x.test", "+15551111111")], now)
        with transaction():  # the first gets the second's phone, then a new renter has that phone
            found = find_or_create(
                [renter("a@x.test", "+15551111111"), renter("c@x.test", "+15551111111")], now
            )
        assert [customer.id for customer in found] == [1, 1]
    finally:
        close_database(checkpoint=True)


async def test_C20_each_request_creates_a_new_lead(harness: ServerHarness) -> None:
    ids = [await harness.lead(token="maple", requestor_name="Jane") for _ in range(3)]
    assert ids == [1, 2, 3]
    assert len({lead["customer"]["id"] for lead in await harness.leads()}) == 1
    assert len(await harness.settled(kind="email", state="delivered")) == 3


async def test_C21_each_lead_creates_one_deal_in_the_initial_stage(harness: ServerHarness) -> None:
    for expected in (1, 2):
        lead = await harness.stored(await harness.lead(token="maple"))
        assert lead["deal"] == {"id": expected, "stage": "new"}


async def test_no_look_up_scans_all_customers(harness: ServerHarness) -> None:
    await harness.lead(requestor_email="a@renter.test", requestor_phone="+15552234567")
    for phones in ([None], ["+15552234567"], ["+15552234567", "+15552234568"]):
        text = customers._KNOWN.text(["a@renter.test"], phones)
        with closing(apsw.Connection(str(harness.data_dir / "leads.db"))) as connection:
            values = ["a@renter.test", *phones]
            plans = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]
        assert plans and not any(plan.startswith("SCAN") for plan in plans), plans


async def test_C19_a_renter_without_a_phone_is_looked_up_by_index(
    harness: ServerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    run = customers._KNOWN.run

    def listen(*lists: object) -> list[tuple[object, ...]]:
        asked.append(lists)
        return run(*lists)

    monkeypatch.setattr(customers._KNOWN, "run", listen)
    await harness.lead(requestor_email="a@renter.test")
    assert asked == [({"a@renter.test"}, [None])]
