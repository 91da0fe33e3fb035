"""E-mail addresses: syntax only, no look-up, every domain allowed (C9)."""

import re
from urllib.parse import unquote

import email_validator

# Special-use domains such as example.test are allowed.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()

_LONGEST = 254  # characters of an address

# Nine of ten addresses match this pattern, and only capitals in their domain change. It takes a fifteenth of
# the time of email_validator; the tests compare both.
_ATOM = r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9]|-(?!-)){0,61}(?<!-)"
_PLAIN = re.compile(rf"(?=.{{1,64}}@)({_ATOM}(?:\.{_ATOM})*)@((?:{_LABEL}\.)+[A-Za-z]{{2,63}})")

# What a browser's <input type=email> accepts (the HTML standard of the WHATWG). The local part may have dots
# anywhere, such as in old addresses of Japanese mobile carriers: jane.@docomo.ne.jp.
_WHATWG_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_WHATWG = re.compile(rf"([A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]+)@({_WHATWG_LABEL}(?:\.{_WHATWG_LABEL})*)")

# Format characters, which nobody sees: copied text has them at its ends.
_INVISIBLE = "\u00ad\u061c\u180e\ufeff" + "".join(
    chr(code)
    for first, last in ((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0xFFF9, 0xFFFB))
    for code in range(first, last + 1)
)
_SCHEME = "mailto:"


def clean_address(text: str) -> str:
    """Return the text without what is no part of an address at its ends.

    That is white space, invisible format characters, `mailto:` (and then a `?subject=…` behind the address),
    `<` and `>`, and a trailing `.`, `,` or `;`. The rest need not be an address.
    """
    if text[:1].isalnum() and text[-1:].isalnum() and ":" not in text:  # a quick test: nearly all are clean
        return text
    before = None
    while text != before:
        before = text
        text = text.strip().strip(_INVISIBLE).lstrip("<").rstrip(">.,;")
        if text[: len(_SCHEME)].lower() == _SCHEME:
            local, at, domain = text[len(_SCHEME) :].partition("@")
            text = unquote(f"{local}{at}{domain.partition('?')[0]}")
    return text


def restore_plus(address: str) -> str:
    """Return the address with a `+` for each space of its local part, as a program's form made one of it."""
    local, at, domain = address.rpartition("@")
    return f"{local.replace(' ', '+')}{at}{domain}"


def normal_form(text: str) -> str:
    """Return the clean address with its domain in Unicode and lower case, and its local part unchanged.

    Raises ValueError, saying what is wrong, if it is not an e-mail address.
    """
    plain = _PLAIN.fullmatch(text)
    if plain and len(text) <= _LONGEST:
        return f"{plain[1]}@{plain[2].lower()}"
    return _validated(text)


def _validated(text: str) -> str:
    text = clean_address(text)
    try:
        checked = email_validator.validate_email(text, check_deliverability=False, globally_deliverable=False)
    except email_validator.EmailNotValidError as error:
        match = _WHATWG.fullmatch(text)
        if match and len(text) <= _LONGEST:
            return f"{match[1]}@{match[2].lower()}"
        raise ValueError(str(error)) from None
    return checked.normalized


def comparison_key(text: str) -> str:
    """Return the form in which two spellings of one address are equal. Raises ValueError."""
    return normal_form(text).lower()


def stored_comparison_key(text: str) -> str:
    """Return the comparison key of a stored address: its text, if only an older rule took it."""
    try:
        return comparison_key(text)
    except ValueError:
        return text.strip().lower()
