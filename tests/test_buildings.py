"""How a lead matches a building, and how tokens are rotated and revoked."""

from datetime import timedelta

import pytest
from command_line import ACTOR
from conftest import ServerHarness, StartHarness, SteppedClock

from models.building import show_building
from models.building_actions import (
    issue_token,
    remove_building,
    revoke_token,
    rotate_token,
    update_building,
)
from models.errors import ActionError, Invalid


async def building_of(harness: ServerHarness, **keys: str | None) -> int | None:
    lead_id = await harness.lead(**keys)
    found: int | None = (await harness.stored(lead_id))["building_id"]
    return found


async def test_C17_a_token_takes_precedence(harness: ServerHarness) -> None:
    other = await harness.building(token="oak", unified_address_id="U2", address_line_one="2 Oak Street")
    keys = {"unified_address_id": "U2", "address_line_one": "2 Oak Street"}
    assert await building_of(harness, token="maple", **keys) == 1
    assert await building_of(harness, token=" oak ") == other


async def test_C17_a_unified_address_id_counts_only_without_a_token(harness: ServerHarness) -> None:
    other = await harness.building(token="oak", unified_address_id="U2")
    assert (
        await building_of(harness, token="", unified_address_id="U2", address_line_one="12 Maple Street")
        == other
    )
    assert await building_of(harness, unified_address_id="U9", address_line_one="12 Maple Street") is None


async def test_C17_an_address_counts_only_without_both(harness: ServerHarness) -> None:
    await harness.building(token="twin", address_line_one="12 Maple Street")
    assert await building_of(harness, address_line_one="  12 Maple Street ") == 1
    assert (
        await building_of(harness, token=" ", unified_address_id=" ", address_line_one="12 Maple Street") == 1
    )
    assert await building_of(harness, address_line_one="12 maple street") is None
    assert await building_of(harness, address_line_one="12 Maple") is None


@pytest.mark.parametrize("token", ["unknown", "MAPLE", "maple2", "' OR 1=1 --"])
async def test_C17_an_unknown_token_does_not_fall_through(harness: ServerHarness, token: str) -> None:
    assert await building_of(harness, token=token, address_line_one="12 Maple Street") is None
    deliveries = await harness.settled()
    assert [(d["kind"], d["state"], d["reason"]) for d in deliveries] == [
        ("email", "skipped", "no building matched")
    ]
    assert harness.mail.mails == []


async def test_C17_each_lead_of_a_batch_matches_its_own_building(harness: ServerHarness) -> None:
    import asyncio

    await harness.building(token="oak", unified_address_id="U2")
    sent = [{"token": "maple"}, {"token": "oak"}, {"unified_address_id": "U2"}, {"token": "x"}, {}] * 5
    ids = await asyncio.gather(*(harness.lead(**keys) for keys in sent))
    expected = [1, 2, 2, None, None] * 5
    assert [(await harness.stored(i))["building_id"] for i in ids] == expected


async def test_C17_a_removed_building_matches_nothing(harness: ServerHarness) -> None:
    await harness.change(lambda: remove_building(ACTOR, 1, harness.clock.now()))
    assert await building_of(harness, token="maple") is None
    assert await building_of(harness, address_line_one="12 Maple Street") is None


async def test_C18_a_token_belongs_to_one_building(harness: ServerHarness) -> None:
    other = await harness.building(token="oak")
    with pytest.raises(ActionError, match="belongs to building 1 already"):
        await harness.change(lambda: issue_token(ACTOR, other, "maple", harness.clock.now()))


async def test_C18_a_rotated_token_works_until_the_overlap_ends(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    rotated = await harness.change(lambda: rotate_token(ACTOR, 1, timedelta(days=7), clock.now()))
    assert await building_of(harness, token="maple") == 1
    assert await building_of(harness, token=rotated.token) == 1
    clock.step(7 * 86_400 - 1)
    assert await building_of(harness, token="maple") == 1
    clock.step(1)
    assert await building_of(harness, token="maple") is None
    assert await building_of(harness, token=rotated.token) == 1


async def test_C18_a_second_rotation_does_not_extend_the_first_overlap(
    harness: ServerHarness, clock: SteppedClock
) -> None:
    await harness.change(lambda: rotate_token(ACTOR, 1, timedelta(hours=1), clock.now()))
    await harness.change(lambda: rotate_token(ACTOR, 1, timedelta(days=7), clock.now()))
    clock.step(3_600)
    assert await building_of(harness, token="maple") is None


async def test_C18_a_revoked_token_stops_working(harness: ServerHarness, clock: SteppedClock) -> None:
    await harness.change(lambda: revoke_token(ACTOR, "maple", clock.now()))
    assert await building_of(harness, token="maple", address_line_one="12 Maple Street") is None
    with pytest.raises(ActionError, match="was revoked"):
        await harness.change(lambda: revoke_token(ACTOR, "maple", clock.now()))


SITES = ["https://maple.test", "https://www.maple.test/apply", "http://staging.maple.test:8000"]


async def change_websites(harness: ServerHarness, *args: object, **options: object) -> list[str]:
    def change() -> list[str]:
        update_building(ACTOR, 1, {}, harness.clock.now(), *args, **options)  # type: ignore[arg-type]
        return show_building(1, harness.clock.now())["website_urls"]

    urls: list[str] = await harness.change(change)
    return urls


async def test_C25_every_website_of_a_building_may_send_leads(
    start_harness: StartHarness, clock: SteppedClock
) -> None:
    harness = await start_harness()
    await harness.building(websites=SITES)
    lead = {"token": "maple", "tour_request": {"requestor_email": "jane@renter.test"}}
    for origin in ("https://maple.test", "https://www.maple.test", "http://staging.maple.test:8000"):
        response = await harness.post(lead, Origin=origin)
        assert (response.code, response.headers["Access-Control-Allow-Origin"]) == (201, origin)
    await change_websites(harness, remove_websites=["https://www.maple.test"])
    clock.step(300.1)
    assert (await harness.post(lead, Origin="https://www.maple.test")).code == 403
    assert (await harness.post(lead, Origin="https://maple.test")).code == 201


@pytest.mark.parametrize(
    "url",
    [
        "https://maple.test",
        " https://maple.test/ ",
        "https://MAPLE.test/apply?x=1",
        "HTTPS://maple.test:443",
        "https://maple.test/#top",
    ],
)
async def test_a_website_of_a_known_origin_is_not_added_twice(harness: ServerHarness, url: str) -> None:
    assert await change_websites(harness, add_websites=[url]) == ["https://maple.test"]


@pytest.mark.parametrize(
    "url", ["http://maple.test", "https://www.maple.test", "https://maple.test:8443", "https://maple.test.au"]
)
async def test_a_website_of_another_origin_is_added_behind(harness: ServerHarness, url: str) -> None:
    assert await change_websites(harness, add_websites=[url, url]) == ["https://maple.test", url]


@pytest.mark.parametrize(
    ("named", "left"),
    [
        (["https://www.maple.test/apply"], [SITES[0], SITES[2]]),
        (["https://www.maple.test"], [SITES[0], SITES[2]]),
        (["HTTP://STAGING.maple.test:8000/", "https://maple.test"], [SITES[1]]),
        (SITES, []),
    ],
)
async def test_a_website_is_removed_by_url_or_origin(
    harness: ServerHarness, named: list[str], left: list[str]
) -> None:
    assert await change_websites(harness, SITES) == SITES
    assert await change_websites(harness, remove_websites=named) == left


@pytest.mark.parametrize("url", ["https://oak.test", "http://maple.test", "maple.test", "null", "x\ny"])
async def test_removing_an_unknown_website_changes_nothing(harness: ServerHarness, url: str) -> None:
    with pytest.raises(ActionError, match="building 1 has no website") as refused:
        await change_websites(harness, ["https://a.test"], remove_websites=[url])
    assert refused.value.code == "unknown_website"
    assert await change_websites(harness) == ["https://maple.test"]


async def test_websites_are_replaced_removed_and_added_in_this_order(harness: ServerHarness) -> None:
    urls = await change_websites(
        harness,
        ["https://a.test", " ", "https://A.test/x", "https://b.test"],
        remove_websites=["https://b.test"],
        add_websites=["https://b.test/new"],
    )
    assert urls == ["https://a.test", "https://b.test/new"]
    assert await change_websites(harness, [""]) == []


@pytest.mark.parametrize(
    "url", ["maple.test", "ftp://a.test", "null", "https://*.a.test", "https://a\n.test"]
)
async def test_a_website_that_is_no_url_is_refused(harness: ServerHarness, url: str) -> None:
    for options in ({"websites": [url]}, {"add_websites": ["https://b.test", url]}):
        with pytest.raises(Invalid) as refused:
            await change_websites(harness, **options)
        assert refused.value.facts["field"] == "website_urls"
    assert await change_websites(harness) == ["https://maple.test"]


async def test_a_building_refuses_a_field_that_it_has_not(harness: ServerHarness) -> None:
    with pytest.raises(Invalid, match="a building has no website_url; it has name, .*, website_urls"):
        await harness.building(token="oak", website_url="https://oak.test")
    with pytest.raises(Invalid, match="a building has no colour, removed_at; "):
        await harness.change(
            lambda: update_building(ACTOR, 1, {"removed_at": "x", "colour": "y"}, harness.clock.now())
        )
