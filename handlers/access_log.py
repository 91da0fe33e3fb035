"""The access log: one line for each request that was answered."""

import logging
from collections.abc import Mapping
from typing import Any

from handlers.log import LogHandler

log = logging.getLogger("leads.http")

# Any other method is text of the client, which is not logged.
STANDARD_METHODS = ("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS")


class AccessLog:
    """Writer of access-log lines. A line holds no path, address or body that a client sent.

    The lines bypass `logging`, which costs about 10 % of a request. They go to the same handler.
    """

    def __init__(self, handler: LogHandler | None = None) -> None:
        """handler: the process's log; None writes no lines."""
        self._handler = handler

    def write(
        self,
        request_id: str,
        method: str,
        route: str,
        status: int,
        seconds: float,
        fields: Mapping[str, Any],
    ) -> None:
        """Write the line of one request, unless level INFO is off. fields: what its handler adds."""
        if self._handler is not None and log.isEnabledFor(logging.INFO):
            self._handler.write_info(
                "answered",
                {
                    "request": request_id,
                    "method": method if method in STANDARD_METHODS else "(other)",
                    "route": route,
                    **fields,
                    "status": status,
                    "ms": round(1e3 * seconds, 1),
                },
            )
