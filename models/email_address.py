"""Owns what an e-mail address is: syntax alone, nothing looked up, every domain allowed (C9)."""

import re

import email_validator

# example.test and printer.local are addresses too, whatever may come of writing to them.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()


# What nine of ten addresses look like: then all is well, and nothing changes but capitals in the domain. A
# fifteenth of the time that the whole judgement takes; the tests hold the one to the other.
_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9]|-(?!-)){0,61}(?<!-)"
_PLAIN = re.compile(rf"(?=.{{1,64}}@)({_ATOM}(?:\.{_ATOM})*)@((?:{_LABEL}\.)+[A-Za-z]{{2,63}})")
_LONGEST_PLAIN = 254


def normal_form(text: str) -> str:
    """The address with its domain in Unicode and lower case, its local part as it is.

    Raises ValueError, saying what is wrong, if it is not an e-mail address.
    """
    plain = _PLAIN.fullmatch(text)
    if plain and len(text) <= _LONGEST_PLAIN:
        return f"{plain[1]}@{plain[2].lower()}"
    return _normal_form_of_any(text)


def _normal_form_of_any(text: str) -> str:
    try:
        checked = email_validator.validate_email(
            text.strip(), check_deliverability=False, globally_deliverable=False
        )
    except email_validator.EmailNotValidError as error:
        raise ValueError(str(error)) from None
    return checked.normalized


def comparison_key(text: str) -> str:
    """The form in which two spellings of one address are equal. Raises ValueError like `normal_form`."""
    return normal_form(text).lower()
