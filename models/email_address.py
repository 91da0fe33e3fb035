"""Owns what an e-mail address is: syntax alone, nothing looked up, every domain allowed (C9)."""

import email_validator

# example.test and printer.local are addresses too, whatever may come of writing to them.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()


def normal_form(text: str) -> str:
    """The address with its domain in Unicode and lower case, its local part as it is.

    Raises ValueError, saying what is wrong, if it is not an e-mail address.
    """
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
