"""How a lead matches a building, and how tokens are rotated and revoked."""

from datetime import timedelta

import pytest
from command_line import ACTOR
from conftest import ServerHarness, SteppedClock

from models.building_actions import issue_token, remove_building, revoke_token, rotate_token
from models.errors import ActionError


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
