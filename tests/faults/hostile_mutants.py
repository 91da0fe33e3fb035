"""Mutants of the bounds on what a hostile client costs."""

from typing import Any

from mutants import Patch, mutant
from tornado.iostream import IOStream

import handlers.api.form
import handlers.chunked_body
import handlers.client_stream
import handlers.connection_shares
import handlers.http_connection
import models.intake

NO_LIMIT = 10**9


@mutant
def searches_the_whole_head_again(patch: Patch) -> None:
    for name in ("_find_read_pos", "read_from_fd"):  # the latter gathers what a client sends byte by byte
        patch.setattr(handlers.client_stream.ClientStream, name, getattr(IOStream, name))


@mutant
def counts_no_chunks(patch: Patch) -> None:
    for limit in ("MAX_FRAMING_BYTES", "MAX_REFUSED_FRAMING_BYTES", "FREE_LINES"):
        patch.setattr(handlers.chunked_body, limit, NO_LIMIT)


@mutant
def searches_for_any_boundary(patch: Patch) -> None:
    patch.setattr(handlers.api.form, "MAX_BOUNDARY_LENGTH", NO_LIMIT)


@mutant
def caps_no_address(patch: Patch) -> None:
    patch.setattr(handlers.connection_shares.Holder, "is_full", False)


@mutant
def takes_any_head(patch: Patch) -> None:
    for module in (handlers.client_stream, handlers.http_connection):
        patch.setattr(module, "MAX_HEAD_BYTES", NO_LIMIT)
    patch.setattr(handlers.http_connection, "MAX_HEADER_LINES", NO_LIMIT)


@mutant
def believes_keys_of_strangers(patch: Patch) -> None:
    def is_reused(key: Any, records: Any) -> bool:
        return key.is_strict and any(records.get(digests.key) for digests in key.digests)

    patch.setattr(models.intake, "is_reused", is_reused)
