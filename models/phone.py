"""Phone numbers: the key by which two spellings of one number are equal (C19)."""

import re
import unicodedata
from collections.abc import Iterator

import phonenumbers
from phonenumbers import Leniency, PhoneNumber, PhoneNumberFormat, PhoneNumberMatcher, ValidationResult

HOME_REGION = "US"  # of a number without a country code

# Nine of ten phone numbers match this pattern, which takes a tenth of the time of `phonenumbers`. The tests
# compare both.
_HOME_NUMBER = re.compile(
    r"(?:\+?1[ .-]?)?(?:\(([2-9][0-9]{2})\) ?|([2-9][0-9]{2})[ .-]?)([0-9]{3})[ .-]?([0-9]{4})"
)
_ASCENDING = "0123456789" * 3
_DESCENDING = _ASCENDING[::-1]

# An extension as people write it, where `phonenumbers` does not find it: Ext.: 34, Ext no 34, (work) x34.
_EXTENSION = re.compile(
    r"(?<![^\W\d_])(?:ext(?:en[st]ion|n)?|x|interno|ramal|anexo|dial|#)[\s.:#=]*(?:no\.?|number)?[\s.:#=]*"
    r"([0-9]{1,7})(?![^\W_])",
    re.IGNORECASE,
)
# `phonenumbers` reads no longer text as one number. A search of it takes less than two milliseconds, whatever
# the text, as it ends after so many candidates that are no number.
_LONGEST_TEXT = 250
_MOST_CANDIDATES = 10


def phone_key(text: str) -> str | None:
    """Return the number in E.164, with its extension if it has one: `+15551234567;ext=34`.

    National numbers are read as US. Return None if nobody could be called by it: `phonenumbers` does not call
    it possible, or it is a placeholder such as 555-555-5555. Words around a number don't matter; of several
    numbers the first counts.
    """
    plain = _HOME_NUMBER.fullmatch(text)
    if plain is None:
        return _parsed_phone_key(text)
    national = f"{plain[1] or plain[2]}{plain[3]}{plain[4]}"
    return None if _is_placeholder(national) else f"+1{national}"


def _parsed_phone_key(text: str) -> str | None:
    if not text.isprintable():  # it may have invisible characters, as a number that was copied often has
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = text[:_LONGEST_TEXT]
    number = next(filter(_is_callable, _numbers(text)), None)
    if number is None and text.lstrip().startswith("00"):  # abroad, the prefix of a country code
        number = next(filter(_is_callable, _numbers("+" + text.lstrip()[2:])), None)
    if number is None:
        return None
    key: str = phonenumbers.format_number(number, PhoneNumberFormat.E164)
    extension = phonenumbers.normalize_digits_only(number.extension or "")
    if not extension and (written := _EXTENSION.search(text)) and written[1] not in key:
        extension = written[1]
    return f"{key};ext={extension}" if extension else key


def _numbers(text: str) -> Iterator[PhoneNumber]:
    """Yield what may be a number in this text, the likeliest first."""
    try:
        whole = phonenumbers.parse(text, HOME_REGION)
    except phonenumbers.NumberParseException:
        whole = None
    # `parse` reads words as the keys of a telephone: "+49 30 901820 (work)" ends in 9675. So letters count as
    # digits only if there is no number without them, as in 1-800-FLOWERS.
    digits = phonenumbers.normalize_digits_only(text)
    if whole is not None and phonenumbers.national_significant_number(whole) in digits:
        yield whole
    inside = PhoneNumberMatcher(text, HOME_REGION, leniency=Leniency.POSSIBLE, max_tries=_MOST_CANDIDATES)
    if inside.has_next():
        yield from (match.number for match in inside)
    elif whole is not None:
        yield whole


def _is_callable(number: PhoneNumber) -> bool:
    # Not a number without its area code either: in each area it is someone else's.
    reason = phonenumbers.is_possible_number_with_reason(number)
    return reason == ValidationResult.IS_POSSIBLE and not _is_placeholder(
        phonenumbers.national_significant_number(number)
    )


def _is_placeholder(national: str) -> bool:
    """Return True if the digits are of two kinds at most, or one run up or down."""
    return len(set(national)) <= 2 or national in _ASCENDING or national in _DESCENDING
