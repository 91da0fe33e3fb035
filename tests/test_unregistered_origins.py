"""Origins of forms that no building has: what the operator sees of them, and the step that registers them."""

import json
from datetime import timedelta
from typing import Any

import pytest
from command_line import Commands

from models.clock import Clock
from models.unregistered_origins import ORIGINS_A_DAY, OriginCount, is_within_domain, merge_days


@pytest.mark.parametrize(
    ("origin", "within"),
    [
        ("https://www.maple.test", True),
        ("http://www.maple.test", True),
        ("https://www.maple.test:8443", True),
        ("https://maple.test", True),
        ("https://staging.www.maple.test", True),
        ("http://localhost:5173", True),
        ("https://blog.maple.test", False),
        ("https://test", False),
        ("https://notwww.maple.test.evil.test", False),
        ("https://evilwww.maple.test", False),
        ("http://a.localhost", False),
        ("http://127.0.0.1:3000", False),
        ("http://[::1]:3000", False),
        ("null", False),
        ("file://", False),
        ("", False),
        ("www.maple.test", False),
    ],
)
def test_C27_a_name_above_or_below_is_within_a_domain(origin: str, within: bool) -> None:
    assert is_within_domain(origin, ["https://www.maple.test", "http://localhost:3000"]) is within


def test_C27_at_most_100_origins_a_day_are_named() -> None:
    counts = [
        OriginCount(day, f"https://{number}.{day}.test", 1, 1, f"{day}T10:00:00Z")
        for day in ("2026-11-22", "2026-11-23")
        for number in range(ORIGINS_A_DAY + 50)
    ]
    counts[50:50] = [OriginCount("2026-11-22", "https://maple.test", 1, 1, "2026-11-22T10:00:00Z")] * 3
    found = merge_days(counts, {1: ["https://maple.test"]})
    assert len(found) == 2 * ORIGINS_A_DAY
    assert "https://maple.test" not in {each["origin"] for each in found}


def now_before(**ago: Any) -> Any:
    return Clock().now() - timedelta(**ago)


def from_origin(origin: str, **fields: Any) -> dict[str, Any]:
    return {"unregistered_origin": origin, "at": now_before(minutes=5), **fields}


def test_C27_a_command_lists_unregistered_origins_with_their_step(commands: Commands) -> None:
    commands.leads({})
    commands.run("building", "update", 1, "--website", "https://maple.test")
    commands.leads(
        from_origin("https://www.maple.test"),
        from_origin("https://www.maple.test", at=now_before(days=2)),
        from_origin("https://www.maple.test", at=now_before(days=8)),
        from_origin("https://builder.test", token="unknown"),
        from_origin("null"),
        from_origin("null"),
        from_origin("null"),
        {"at": now_before(minutes=1)},
    )
    rows = commands.rows("building", "origins")
    assert [(row["origin"], row["building_id"], row["leads"]) for row in rows] == [
        ("null", 1, 3),
        ("https://www.maple.test", 1, 2),
        ("https://builder.test", None, 1),
    ]
    assert [row["within_domain"] for row in rows] == [False, True, False]
    assert [row["command"] for row in rows] == [
        None,
        "building update 1 --add-website https://www.maple.test",
        "building update ID --add-website https://builder.test",
    ]
    shown = commands.run("building", "origins").stdout
    assert "it can't be: the page hides its origin" in shown and rows[1]["command"] in shown

    commands.run(*rows[1]["command"].split())
    commands.run("building", "update", 1, "--add-website", "https://builder.test")
    assert [row["origin"] for row in commands.rows("building", "origins")] == ["null"]
    commands.run("building", "remove", 1)
    assert [row["origin"] for row in commands.rows("building", "origins")] == ["https://builder.test"]


def test_no_unregistered_origin_is_said_in_words(commands: Commands) -> None:
    commands.leads({})
    said = commands.run("building", "origins").stdout
    assert said == "In the last 7 days no form came from an unregistered origin.\n"


def test_C27_doctor_names_three_unregistered_origins(commands: Commands) -> None:
    def check() -> tuple[str, str, str | None]:
        [found] = [row for row in doctor_rows(commands) if row["id"] == "unregistered_origins"]
        return found["state"], found["found"], found["remedy"]

    commands.leads({}, from_origin("null"), from_origin("https://old.test", at=now_before(days=8)))
    assert check() == ("ok", "no form came from an unregistered one in the last 7 days", None)
    commands.leads(*(from_origin(f"https://{name}.test") for name in "abbcd"))
    state, found, fix = check()
    assert state == "warning" and fix is not None and "'building origins'" in fix
    assert "https://b.test, https://a.test, https://c.test and 1 more, which no building has" in found
    commands.run("building", "update", 1, *(f"--add-website=https://{name}.test" for name in "abcd"))
    assert check()[0] == "ok"


def doctor_rows(commands: Commands) -> list[dict[str, Any]]:
    return [json.loads(line) for line in commands.run("doctor", "--json", status=1).stdout.splitlines()]
