"""Deals: a lead's place in the pipeline."""

from collections.abc import Sequence
from datetime import datetime

from peewee import AutoField, ForeignKeyField, IntegerField, TextField

from models.lead import Lead
from models.storage.cached_query import CachedQuery
from models.storage.rows import Row, UtcDateTimeField


class PipelineStage(Row):
    """A stage of the pipeline. A deal begins in the stage of the lowest position."""

    id = AutoField()
    position = IntegerField(unique=True)
    name = TextField(unique=True)


class Deal(Row):
    """A lead's progress through the pipeline; each lead has one."""

    id = AutoField()
    lead = ForeignKeyField(Lead, unique=True)
    lead_id: int
    stage = ForeignKeyField(PipelineStage)
    created_at = UtcDateTimeField()


def open_deals(lead_ids: Sequence[int], now: datetime) -> None:
    """Create the deal of each lead, in the pipeline's initial stage (C21)."""
    _OPEN.run(now, lead_ids)


_INITIAL_STAGE = PipelineStage.select(PipelineStage.id).order_by(PipelineStage.position).limit(1)
_OPEN = CachedQuery(
    lambda now, lead_ids: Deal.insert_from(
        Lead.select(Lead.id, _INITIAL_STAGE, now).where(Lead.id.in_(lead_ids)),
        (Deal.lead, Deal.stage, Deal.created_at),
    )
)
