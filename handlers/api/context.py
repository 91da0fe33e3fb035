"""The parts of the server that the API's handlers work with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from handlers.access_log import AccessLog
from handlers.api.cors import Allowlist
from handlers.api.large_bodies import LargeBodies
from handlers.api.rate_limit import RateLimiter
from handlers.api.undeclared_proxies import UndeclaredProxies
from models.building import BuildingDict
from models.clock import Clock
from models.disk_space import SpaceBudget
from models.intake import KeyReused, Recorded, Submission
from models.secret import InstallationSecret
from models.setting_values import Network
from models.storage import WriteResult

# Called once the outcome of a lead's commit is known.
StoredCallback = Callable[[WriteResult[Recorded | KeyReused]], None]


@dataclass(frozen=True, slots=True)
class ApiContext:
    """What each ApiHandler is given. in_flight: the requests that have no answer yet.

    record_lead: queue a lead for the writer. Raises Overloaded. count_today: count an event of this name.
    count_buffered: as count_today, with few writes, for what a flood may repeat. read_building: return a
    building. Raises NotFound and StorageError. is_loopback_only: only programs on this machine can connect.
    """

    record_lead: Callable[[Submission, StoredCallback], None]
    count_today: Callable[[str], None]
    count_buffered: Callable[[str], None]
    read_building: Callable[[int], Awaitable[BuildingDict]]
    secret: InstallationSecret
    limiter: RateLimiter
    space_budget: SpaceBudget
    undeclared_proxies: UndeclaredProxies
    allowlist: Allowlist
    trusted_proxies: tuple[Network, ...]
    is_loopback_only: bool
    clock: Clock
    in_flight: set[object]
    large_bodies: LargeBodies
    access_log: AccessLog
