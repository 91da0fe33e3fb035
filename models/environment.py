"""LEADS_* variables of the environment: settings, misspelt settings, and foreign variables.

Other programs set variables with this prefix too. Kubernetes and Docker do it by themselves, for each service
whose name begins with `leads`. So an unknown variable is ignored, unless it looks like a misspelt setting.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches

PREFIX = "LEADS_"
# 0.82 finds a letter too many or too few in `port`, and `trusted_proxy`. It doesn't find `export`.
CUTOFF = 0.82

_SERVICE_LINK = re.compile(
    r"LEADS(?P<rest>(?:_[A-Z0-9]+)*?)_"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?|(?P<port>PORT))"
)
_SUFFIXES = ("FILE", "PATH", "KEY")  # behind a setting's name: LEADS_CONFIG_FILE, LEADS_SECRET_KEY
_ADDRESS = re.compile("(?:tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class ForeignVariable:
    """A variable that is no setting. reason: why it is ignored, and what to do about it, as text."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} of the environment is ignored: {self.reason}"


def linked_service(variable: str, value: str) -> str | None:
    """Return the service that Kubernetes or Docker sets this variable for; None if it is another variable.

    LEADS_PORT is one only with an address for its value: it is a setting as well.
    """
    link = _SERVICE_LINK.fullmatch(variable)
    if link is None or (link["port"] and not _ADDRESS.match(value)):
        return None
    return f"leads{link['rest']}".lower().replace("_", "-")


def foreign_variable(variable: str, value: str) -> ForeignVariable:
    """Return the variable with the reason why it is ignored."""
    service = linked_service(variable, value)
    if service is None:
        return ForeignVariable(variable, "it is not a setting; see 'config show'")
    return ForeignVariable(
        variable,
        f"Kubernetes or Docker sets it for the service {service}; "
        "'enableServiceLinks: false' in the pod's spec ends that",
    )


def meant_name(name: str, known: Collection[str]) -> str | None:
    """Return the known name that a misspelt one most likely stands for; None if it resembles none."""
    # Underscores are easily forgotten, so they don't count.
    by_letters = {each.lower().replace("_", ""): each for each in known}
    letters = name.lower().replace("_", "")
    if close := get_close_matches(letters, by_letters, 1, CUTOFF):
        return by_letters[close[0]]
    for other, each in by_letters.items():
        is_swapped = sorted(letters) == sorted(other)  # prot
        is_longer = "_" in each and letters.startswith(other)  # backup_directory, smtp_url_file
        is_suffixed = any(letters == other + suffix.lower() for suffix in _SUFFIXES)
        if is_swapped or is_longer or is_suffixed:
            return each
    return None
