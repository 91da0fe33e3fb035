"""Characters that are not seen, in what the program prints: tables, records, JSON, log, the demo's lines."""

import json
import sys
import unicodedata
import urllib.request

import databases
import pytest
from command_line import Commands
from conftest import LEADS
from server_process import run, started

from handlers.log import TextFormatter
from models.shown_text import INVISIBLE, escaped, printable

# Nothing else of Unicode is assigned, but for private use.
EVERY_CHARACTER = [*map(chr, (*range(0x32000), *range(0xE0000, 0xE1000), 0xF0000, sys.maxunicode))]
NOT_SEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
HIDDEN = [
    *("\u00ad", "\u034f", "\u061c", "\u115f", "\u1160", "\u17b4", "\u17b5", "\u180b", "\u180e", "\u180f"),
    *("\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u2028", "\u2029", "\u202a", "\u202e", "\u2060"),
    *("\u2063", "\u2066", "\u2069", "\u206f", "\u2800", "\u3164", "\ufe00", "\ufe0e", "\ufe0f", "\ufeff"),
    *("\uffa0", "\ufff9", "\ue000", "\U0001bca0", "\U0001d173", "\U000e0001", "\U000e0041", "\U000e007f"),
    *("\U000e0100", "\U000e01ef", "\U000f0000", "\U0010ffff", "\x00", "\x07", "\x1b", "\x7f", "\x9b", "\x85"),
]
HONEST = [
    "José Ñandú",
    "李小龍",
    "नमस्ते",
    "می\u200cخواهم",  # Persian: a joiner keeps the letters apart
    "ക\u0d4d\u200dഷ",  # Malayalam
    "❤\ufe0f",
    "👩\u200d👩\u200d👧",
    "🏳\ufe0f\u200d🌈",
    "1\ufe0f\u20e3",
    "©\ufe0f",
]


def test_no_unseen_character_is_printed() -> None:
    unseen = {c for c in EVERY_CHARACTER if unicodedata.category(c) in NOT_SEEN or c in INVISIBLE}
    shown = printable("a".join(unseen))
    assert set(shown) == {"a", " ", "\N{REPLACEMENT CHARACTER}"}
    seen = "".join(c for c in EVERY_CHARACTER if c not in unseen and unicodedata.category(c) != "Zs")
    assert printable(seen) == seen
    assert printable("a\r\n\tb\u00a0c\u3000d") == "a   b c d"


def test_no_unseen_character_is_in_json_and_nothing_is_lost() -> None:
    for group in (EVERY_CHARACTER[:0xD800], EVERY_CHARACTER[0xE000:], EVERY_CHARACTER[0xD800:0xDC00]):
        text = json.dumps(["-".join(group)], ensure_ascii=False)
        shown = escaped(text)
        assert json.loads(shown) == json.loads(text)
        assert not [c for c in set(shown) if unicodedata.category(c) in NOT_SEEN or c in INVISIBLE]
    assert escaped('"\U000e0041\u200b\x7fé李😀"') == '"\\udb40\\udc41\\u200b\\u007fé李😀"'


@pytest.mark.parametrize("hidden", HIDDEN, ids=lambda c: f"U+{ord(c):04X}")
@pytest.mark.parametrize("text", ["Ann{}Lee", "{}Ann", "Ann{}", "Ann{0}{0}Lee", "Анна{}Ли", "חנה{}לי"])
def test_a_hidden_character_is_never_printed(hidden: str, text: str) -> None:
    written = text.format(hidden)
    assert hidden not in printable(written)
    assert hidden not in escaped(json.dumps(written, ensure_ascii=False))
    assert hidden not in TextFormatter().line(0, "INFO", "event", {"reason": written})


@pytest.mark.parametrize("text", HONEST)
def test_honest_text_is_printed_as_it_is(text: str) -> None:
    assert printable(text) == text
    assert json.loads(escaped(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.parametrize(
    "text",
    [
        "admin\u200d@office.test",
        "a\u200cb",
        "می\u200c",
        "می\u200c\u200cخ",
        "❤\ufe0f\ufe0f",
        "a\ufe0f",
        "👩\u200da",
        "a\u200d👧",
        "👩\u200d\u200d👧",
        "1\ufe0f",
    ],
)
def test_a_joiner_in_any_other_place_is_replaced(text: str) -> None:
    assert "\N{REPLACEMENT CHARACTER}" in printable(text)


def test_no_command_prints_a_hidden_character(commands: Commands) -> None:
    stored = [c for c in HIDDEN if not unicodedata.category(c).startswith("Cs")]
    if databases.IS_POSTGRESQL:
        stored.remove("\0")  # which its text can't hold
    name = "Ann" + "-".join(stored) + "Lee"
    commands.leads({"name": name, "message": name, "utm_data": {name: name}, "unit_preference": name})
    for command in (
        "lead list",
        "lead list --json",
        "lead show 1",
        "lead show 1 --json",
        "lead export",
        "lead export --json",
        "customer list",
        "customer show 1 --json",
        "outbox list",
        "doctor",
        "doctor --json",
    ):
        _, shown = commands.on_terminal(*command.split())
        assert not set(stored) & set(shown), command
    assert commands.row("lead", "show", 1)["requestor_name"] == name
    assert commands.row("customer", "show", 1)["name"] == name


def test_honest_text_is_readable_in_tables_and_records(commands: Commands) -> None:
    commands.leads(
        *({"name": text, "email": f"{at}@renter.test", "phone": None} for at, text in enumerate(HONEST))
    )
    for command in ("lead list", "customer list"):
        shown = commands.run(*command.split()).stdout
        assert all(text in shown for text in HONEST), command
    assert HONEST[3] in commands.run("lead", "show", 4).stdout


@pytest.mark.database
def test_text_that_is_not_utf_8_is_shown_or_refused() -> None:
    folder = "/nonexistent/\udcff"  # a byte that is not UTF-8, as Python has it
    for command in (("config", "show"), ("config", "show", "--json"), ("doctor", "--json")):
        shown = run(*command, data_dir=folder)
        assert "Traceback" not in shown.stderr and "\udcff" not in shown.stdout
    rows = map(json.loads, run("config", "show", "--json", data_dir=folder).stdout.splitlines())
    assert {row["name"]: row["value"] for row in rows}["data_dir"] == folder


def test_a_lookup_of_text_that_is_not_utf_8_is_refused(commands: Commands) -> None:
    commands.leads({})
    assert commands.refusal("token", "revoke", "a\udcff") == "an argument is not valid UTF-8"


def test_the_demo_prints_no_hidden_character() -> None:
    name = "Ann" + "-".join(c for c in HIDDEN if c.isprintable() or unicodedata.category(c) == "Cf") + "Lee"
    lead = {"token": "demo", "tour_request": {"requestor_email": "ann@renter.test", "requestor_name": name}}
    with started("demo") as demo:
        request = urllib.request.Request(
            f"{demo.url}{LEADS}", json.dumps(lead).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 201
        demo.read_until(r"(mail     to .*)")
        assert not set(HIDDEN) - {"\n"} & set(demo.output)
