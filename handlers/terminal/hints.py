"""Hints of the terminal: for each error that a command can resolve, that command."""

from models.errors import ActionError

# By the error's code; {names} are of its facts.
HINTS = {
    "no_database": "give --data-dir",
    "unknown_building": "see 'building list'",
    "unknown_website": "see 'building show {building}'",
    "unknown_token": "see 'token list'",
    "unknown_customer": "see 'customer list'",
    "unknown_lead": "see 'lead list'",
    "unknown_lead_to_assign": "see 'lead list --unassigned'",
    "unknown_lead_to_release": "see 'lead list --suspected'",
    "unknown_delivery": "see 'outbox list'",
    "quarantined": "'lead release {lead}' lets it leave",
    "suspected": "'lead release {lead}' comes first",
    "unassigned": "give it one by 'lead assign'",
    "no_agent": "set one by 'building update {building} --agent-email', or give --to",
    "failed": "'outbox retry {delivery}' sends it again",
    "delivered": "'lead send {lead}' sends the lead again",
    "withdrawn": "'lead send {lead}' sends the lead to its building's agent",
}


def with_hint(error: ActionError) -> str:
    """Return the error's message, with the hint that it has a code for."""
    hint = HINTS.get(error.code)
    return str(error) if hint is None else f"{error}; {hint.format_map(error.facts)}"
