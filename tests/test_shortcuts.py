"""Fast paths: wherever one decides, it decides as the library that it replaces."""

import string
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handlers.api import validation
from models import email_address, phone

ATOM = string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~-."
DOMAIN = string.ascii_letters + string.digits + "-."
ADDRESSES = st.builds(
    "{}@{}.{}".format,
    st.text(ATOM, min_size=1, max_size=66),
    st.text(DOMAIN, min_size=1, max_size=70),
    st.text(string.ascii_letters, min_size=1, max_size=64),
)


@given(st.one_of(ADDRESSES, st.text(max_size=30), st.emails()))
@example("jane@example.com")
@example("INFO@example.com")
@example("postmaster@Example.COM")
@example(f"{'a' * 64}@example.com")
@example(f"{'a' * 65}@example.com")
@example(f"a@{'b' * 63}.com")
@example(f"a@{'b' * 64}.com")
@example(f"a@{'.'.join(['b' * 60] * 5)}.com")
@example("a@xn--bcher-kva.example")
@example("a@b--c.example")
@example("a@bücher.example")
@example("jane@example.com\n")
@example(" jane@example.com")
@example("a..b@example.com")
@example("a@-b.example")
@example("a@b-.example")
@example("a@example.c")
@example("a@1.2.3.4")
@example("<jane@example.com>.")
@example("mailto:jane@example.com")
@example("jane.@example.com")
def test_C9_email_fast_path_agrees_with_email_validator(text: str) -> None:
    assert outcome(email_address.normal_form, text) == outcome(email_address._validated, text)


def outcome(normalize: Any, text: str) -> tuple[bool, str | None]:
    try:
        return True, normalize(text)
    except ValueError:
        return False, None


def test_C9_common_addresses_take_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(text: str) -> str:
        raise AssertionError(text)

    monkeypatch.setattr(email_address, "_validated", fail)
    for text in ("jane@example.com", "jane.doe+tour@mail.Example.co.uk", "o'hara_99@a-b.test"):
        assert email_address.normal_form(text) == text.lower()


SEPARATORS = st.sampled_from(["", " ", ".", "-", "  ", "/", ") ", ")", " ("])
DIGITS = st.text(string.digits, min_size=2, max_size=4)
NUMBERS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "+1", "1", "+1 ", "1-", "(", "+1 (", "1 (", "+44 ", "011", "0"]),
        st.text(string.digits, min_size=3, max_size=3),
        SEPARATORS,
        st.text(string.digits, min_size=3, max_size=3),
        SEPARATORS,
        DIGITS,
        st.sampled_from(["", " x12", " ext. 3", "\n"]),
    ),
)


@given(st.one_of(NUMBERS, st.text(string.digits + "+-() .x", max_size=16)))
@example("+15551234567")
@example("(555) 123-4567")
@example("555.223.4567")
@example("15552234567")
@example("1-555-223-4567")
@example("5552234567")
@example("555-555-5555")
@example("2345678901")
@example("+1 (987) 654-3210")
@example("٥٥٥٢٢٣٤٥٦٧")
def test_C19_phone_fast_path_agrees_with_phonenumbers(text: str) -> None:
    assert phone.phone_key(text) == phone._parsed_phone_key(text)


@given(st.one_of(ADDRESSES, st.text(max_size=30), st.text(" <>.,;:@mailto\u200b\ufeff", max_size=30)))
def test_C9_clean_address_leaves_nothing_to_clean(text: str) -> None:
    cleaned = email_address.clean_address(text)
    assert email_address.clean_address(cleaned) == cleaned
    assert cleaned in text or "?" in text
    assert not cleaned or not (cleaned[0].isspace() or cleaned[-1].isspace() or cleaned[0] in "<\u200b")


VALIDATOR = validation.LeadValidator(validation.SCHEMA)
TEXTS = st.one_of(
    st.text(max_size=12), st.sampled_from(["m" * 1_000, "m" * 1_001, "m" * 10_000, "m" * 10_001])
)
VALUES: st.SearchStrategy[Any] = st.one_of(
    TEXTS, st.sampled_from(["june_homes", "zillow", "June_Homes"]), st.integers(), st.just([])
)
TOURS = st.dictionaries(st.sampled_from(sorted(validation.TOUR_REQUEST)), VALUES)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "token": VALUES,
        "unified_address_id": VALUES,
        "address_line_one": VALUES,
        "tour_request": st.one_of(TOURS, st.builds(dict, TOURS, requestor_email=TEXTS), VALUES),
    },
)


@given(DOCUMENTS)
@example({"tour_request": {"requestor_email": "jane@renter.test", "listing_source": "zillow"}})
@example({"tour_request": {"requestor_email": "jane@renter.test", "listing_source": "zilow"}})
@example({"tour_request": {"requestor_email": "m" * 1_001}})
@example({"tour_request": {"requestor_email": "m", "message": "m" * 10_000}})
@example({"tour_request": {}})
@example({})
def test_validation_fast_path_agrees_with_cerberus(document: dict[str, Any]) -> None:
    assert VALIDATOR.is_surely_valid(document) == (VALIDATOR.cerberus_error(document) is None)


def test_schema_has_only_rules_known_to_fast_path() -> None:
    known = {"type", "maxlength", "allowed", "required", "schema", "meta"}  # `meta` is documentation
    for fields in (validation.SCHEMA, validation.TOUR_REQUEST):
        for rules in fields.values():
            assert rules.keys() <= known and rules["type"] in ("string", "dict")
            assert rules.get("required", True) is True


@pytest.mark.parametrize(
    "rule",
    [{"regex": ".*"}, {"minlength": 1}, {"nullable": True}, {"empty": False}, {"type": "integer"}],
    ids=str,
)
def test_validator_rejects_schema_rules_unknown_to_fast_path(rule: dict[str, Any]) -> None:
    fields = {"name": {"type": "string", "maxlength": 9, **rule}}
    for schema in (fields, {"tour_request": {"type": "dict", "schema": fields}}):
        with pytest.raises(ValueError, match="name: the fast path"):
            validation.LeadValidator(schema)


def test_validator_rejects_strings_without_maxlength() -> None:
    with pytest.raises(ValueError, match="maxlength"):
        validation.LeadValidator({"name": {"type": "string"}})
