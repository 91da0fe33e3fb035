"""The key of a phone: which spellings are one number, and which texts nobody could be called by."""

import re

import phonenumbers
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from models.phone import phone_key


@pytest.mark.parametrize(
    ("phone", "key"),
    [
        # spellings
        ("(555) 123-4567", "+15551234567"),
        ("1-555-123-4567", "+15551234567"),
        ("1 (555) 123.4567", "+15551234567"),
        ("\u202a555\u00a0123\u00a04567\u202c", "+15551234567"),
        ("555\u200e123\u200b4567", "+15551234567"),
        ("\ufeff5551234567", "+15551234567"),
        ("555\u2011123\u20114567", "+15551234567"),
        ("５５５１２３４５６７", "+15551234567"),
        ("（５５５）１２３－４５６７", "+15551234567"),
        ("٥٥٥١٢٣٤٥٦٧", "+15551234567"),
        ("tel:+1-555-123-4567", "+15551234567"),
        ("tel:20-7946-0958;phone-context=+44", "+442079460958"),
        ("https://wa.me/15551234567", "+15551234567"),
        ("011 44 20 7946 0958", "+442079460958"),
        ("+49 (0)30 901820", "+4930901820"),
        ("1-800-FLOWERS", "+18003569377"),
        # extensions
        ("(555) 123-4567 x12", "+15551234567;ext=12"),
        ("555 123 4567 ext. 34", "+15551234567;ext=34"),
        ("555-123-4567 #56", "+15551234567;ext=56"),
        ("+15551234567;ext=7", "+15551234567;ext=7"),
        ("5551234567 extension 8", "+15551234567;ext=8"),
        ("555-123-4567 (ext 9)", "+15551234567;ext=9"),
        ("555-123-4567 x12 work", "+15551234567;ext=12"),
        ("555-123-4567,7", "+15551234567;ext=7"),
        ("５５５１２３４５６７ x１２", "+15551234567;ext=12"),
        # words around it
        ("(555) 123-4567 (cell)", "+15551234567"),
        ("mobile: (555) 123-4567", "+15551234567"),
        ("555 123 4567 - work", "+15551234567"),
        ("call me at 555 123 4567 after 5", "+15551234567"),
        ("555 123 4567 (c)", "+15551234567"),
        ("5551234567cell", "+15551234567"),
        ("Tel.: 555-123-4567.", "+15551234567"),
        ("apt 4B, please text 555-123-4567", "+15551234567"),
        ("555-123-4567 9am-5pm", "+15551234567"),
        ("555 123 4567 ext n/a", "+15551234567"),
        ("+49 30 901820 (work)", "+4930901820"),
        # of several the first that counts
        ("555-123-4567 / 555-987-6543", "+15551234567"),
        ("cell 555-123-4567 home 555-987-6543", "+15551234567"),
        ("5551234567, 5559876543", "+15551234567"),
        ("000-000-0000 or 555-123-4567", "+15551234567"),
        # placeholders
        ("000-000-0000", None),
        ("555-555-5555", None),
        ("(555) 555-1111", None),
        ("+1 212 121 2121", None),
        ("123-456-7890", None),
        ("+1 (123) 456-7890", None),
        ("1-234-567-8901", None),
        ("0123456789", None),
        ("987-654-3210", None),
        ("321 098 7654", None),
        ("+44 1111 111111", None),
        ("555-555-5555 (cell)", None),
        ("1234567890 x12", None),
        ("１１１１１１１１１１", None),
        # nothing to call
        ("N/A", None),
        ("none", None),
        ("1", None),
        ("0", None),
        ("-", None),
        ("+1", None),
        ("(555) ___-____", None),
        ("911", None),
        ("555-1234", None),
        ("mob. 555-1234", None),
        ("call me", None),
        ("I don't have one", None),
        ("jane@renter.test", None),
        ("55512345678", None),
        ("1234567890123456", None),
        ("\u200b", None),
    ],
)
def test_C19_phone_keys(phone: str, key: str | None) -> None:
    assert phone_key(phone) == key


@given(st.one_of(st.text(max_size=40), st.text("0123456789+-() .;/#x,=ext", max_size=300)))
def test_C19_any_text_is_a_number_or_none(text: str) -> None:
    key = phone_key(text)
    assert key is None or (re.fullmatch(r"\+[0-9]{5,20}(;ext=[0-9]+)?", key) and phone_key(key) == key)


@given(st.text("abcdefghijklmnopqrstuvwxyzABCÄß -'.,!?()/:", max_size=300))
def test_C19_words_alone_never_match(text: str) -> None:
    assert phone_key(text) is None


@given(st.integers(2_000_000_000, 9_999_999_999), st.sampled_from([".", "-", " ", ""]))
def test_C19_a_national_number_is_read_as_us_in_any_grouping(number: int, mark: str) -> None:
    digits = str(number)
    assume(len(set(digits)) > 2 and digits not in "0123456789" * 2 + "9876543210" * 2)
    grouped = mark.join((digits[:3], digits[3:6], digits[6:]))
    assert phone_key(grouped) == phone_key(f"+1 {grouped}") == f"+1{digits}"


@given(st.sampled_from([44, 49, 33, 52, 91]), st.integers(10_000_000, 999_999_999))
def test_C19_the_key_of_a_key_is_itself(country: int, number: int) -> None:
    key = phone_key(f"+{country} {number}")
    assume(key is not None)
    assert key and phone_key(key) == key
    assert phonenumbers.parse(key).country_code == country


@pytest.mark.parametrize("unit", ["1/", "555 123 ", "555-1234;", "5", "(5", "+1", "a 555 ", " ext. 1", "5."])
def test_a_long_text_without_a_number_is_searched_in_part(unit: str) -> None:
    assert phone_key(unit * 500) is None


@pytest.mark.parametrize(
    "extension",
    ["Ext.: 34", "Ext.:34", "Ext. #34", "Ext# 34", "Ext no 34", "Ext=34", "extention 34", "(work) x34"]
    + ["interno 34", "ramal 34", "dial 34", "Ext\n34", "x34", ", ext 34", "#34"],
)
def test_C19_an_extension_is_found_however_it_is_written(extension: str) -> None:
    assert phone_key(f"212-555-0100 {extension}") == "+12125550100;ext=34"


@pytest.mark.parametrize(
    "text", ["212-555-0100, apt #4B", "212-555-0100 (cell)", "212-555-0100 fax 212-555-0199"]
)
def test_C19_other_words_are_no_extension(text: str) -> None:
    assert phone_key(text) == "+12125550100"


def test_C19_a_country_code_behind_00_counts() -> None:
    assert phone_key("0044 20 7946 0958") == phone_key("+44 20 7946 0958")
