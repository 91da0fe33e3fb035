"""Which building a lead is for, and the life of its tokens."""

from datetime import timedelta

import pytest
from conftest import House, SteppedClock

from models.building import (
    Refused,
    find_building,
    issue_token,
    remove_building,
    revoke_token,
    rotate_token,
)


async def building_of(house: House, **clues: str | None) -> int | None:
    lead_id = await house.lead(**clues)
    found: int | None = (await house.stored(lead_id))["building_id"]
    return found


async def test_C17_by_token_before_all_else(house: House) -> None:
    other = await house.building(token="oak", unified_address_id="U2", address_line_one="2 Oak Street")
    clues = {"unified_address_id": "U2", "address_line_one": "2 Oak Street"}
    assert await building_of(house, token="maple", **clues) == 1
    assert await building_of(house, token=" oak ") == other


async def test_C17_by_unified_address_id_only_without_a_token(house: House) -> None:
    other = await house.building(token="oak", unified_address_id="U2")
    assert (
        await building_of(house, token="", unified_address_id="U2", address_line_one="12 Maple Street")
        == other
    )
    assert await building_of(house, unified_address_id="U9", address_line_one="12 Maple Street") is None


async def test_C17_by_address_only_without_both(house: House) -> None:
    await house.building(token="twin", address_line_one="12 Maple Street")
    assert await building_of(house, address_line_one="  12 Maple Street ") == 1
    assert (
        await building_of(house, token=" ", unified_address_id=" ", address_line_one="12 Maple Street") == 1
    )
    assert await building_of(house, address_line_one="12 maple street") is None
    assert await building_of(house, address_line_one="12 Maple") is None


@pytest.mark.parametrize("token", ["unknown", "MAPLE", "maple2", "' OR 1=1 --"])
async def test_C17_an_unknown_token_does_not_fall_through(house: House, token: str) -> None:
    assert await building_of(house, token=token, address_line_one="12 Maple Street") is None
    deliveries = await house.settled()
    assert [(d["kind"], d["state"], d["reason"]) for d in deliveries] == [
        ("email", "skipped", "no building matched")
    ]
    assert house.mail.mails == []


async def test_C17_leads_of_one_batch_find_each_its_own_building(house: House) -> None:
    import asyncio

    await house.building(token="oak", unified_address_id="U2")
    clues = [{"token": "maple"}, {"token": "oak"}, {"unified_address_id": "U2"}, {"token": "x"}, {}] * 5
    ids = await asyncio.gather(*(house.lead(**c) for c in clues))
    expected = [1, 2, 2, None, None] * 5
    assert [(await house.stored(i))["building_id"] for i in ids] == expected


async def test_C17_a_removed_building_matches_nothing(house: House) -> None:
    await house.change(lambda: remove_building(find_building(1), house.clock.now()))
    assert await building_of(house, token="maple") is None
    assert await building_of(house, address_line_one="12 Maple Street") is None


async def test_C18_a_token_belongs_to_one_building(house: House) -> None:
    other = await house.building(token="oak")
    with pytest.raises(Refused, match="belongs to building 1 already"):
        await house.change(lambda: issue_token(find_building(other), "maple", house.clock.now()))


async def test_C18_a_rotated_token_works_through_the_overlap_and_no_longer(
    house: House, clock: SteppedClock
) -> None:
    rotated = await house.change(lambda: rotate_token(find_building(1), timedelta(days=7), clock.now()))
    assert await building_of(house, token="maple") == 1
    assert await building_of(house, token=rotated.token) == 1
    clock.step(7 * 86_400 - 1)
    assert await building_of(house, token="maple") == 1
    clock.step(1)
    assert await building_of(house, token="maple") is None
    assert await building_of(house, token=rotated.token) == 1


async def test_C18_a_second_rotation_does_not_lengthen_the_first_overlap(
    house: House, clock: SteppedClock
) -> None:
    await house.change(lambda: rotate_token(find_building(1), timedelta(hours=1), clock.now()))
    await house.change(lambda: rotate_token(find_building(1), timedelta(days=7), clock.now()))
    clock.step(3_600)
    assert await building_of(house, token="maple") is None


async def test_C18_a_revoked_token_works_no_more(house: House, clock: SteppedClock) -> None:
    await house.change(lambda: revoke_token("maple", clock.now()))
    assert await building_of(house, token="maple", address_line_one="12 Maple Street") is None
    with pytest.raises(Refused, match="was revoked"):
        await house.change(lambda: revoke_token("maple", clock.now()))
