"""Errors of actions: why one was refused, in words that a terminal and a page can both show."""


class ActionError(Exception):
    """An action that was refused and changed nothing. The message says why, in one line.

    code: names the error where there is a way out of it, so that each user interface can add its own
    hint. facts: the values that a hint or a form needs, such as an id or the name of a field. The
    message itself names no command and no button.
    """

    def __init__(self, message: str, code: str = "", **facts: object) -> None:
        super().__init__(message)
        self.code = code
        self.facts = facts


class NotFound(ActionError):
    """The subject of the action does not exist."""


class Conflict(ActionError):
    """The subject is in a state that does not allow the action."""


class Invalid(ActionError):
    """A value can't be used."""
