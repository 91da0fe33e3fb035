"""Errors of actions: what was asked for can't be done, in words that a terminal and a page can both show."""


class ActionError(Exception):
    """An action that was refused and changed nothing. The message says why, in one line.

    code: names the trouble where there is a way out of it, so that the terminal and the console can each say
    their own; facts: what that hint needs, such as ids. The message itself names no command and no button.
    """

    def __init__(self, message: str, code: str = "", **facts: object) -> None:
        super().__init__(message)
        self.code = code
        self.facts = facts


class NotFound(ActionError):
    """There is no such thing."""


class Conflict(ActionError):
    """The thing is in a state that doesn't allow the action."""


class Invalid(ActionError):
    """A value can't be used."""
