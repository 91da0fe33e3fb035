"""The leads in a database file, read without the program's own code, and compared with a ledger."""

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw
from fault_run import FaultRun
from lead_client import Ledger


@dataclass(frozen=True)
class StoredLead:
    """One lead with its other rows. keys: how many Idempotency-Keys refer to it."""

    email: str
    deals: int
    deliveries: tuple[str, ...]
    keys: int

    @property
    def is_whole(self) -> bool:
        """True if the lead has its deal and both of its deliveries."""
        return self.deals == 1 and self.deliveries == ("email", "june_homes")


def stored_leads(database: Path) -> dict[int, StoredLead]:
    """Return the leads in this file and its WAL, by id. Raises AssertionError if the file is corrupt."""
    with closing(apsw.Connection(str(database))) as connection:
        verdict = connection.execute("PRAGMA integrity_check(1)").get
        assert verdict == "ok", verdict
        deliveries: dict[int, list[str]] = {}
        for lead_id, kind in connection.execute("SELECT lead_id, kind FROM delivery ORDER BY kind"):
            deliveries.setdefault(lead_id, []).append(kind)
        deals = Counter(lead_id for (lead_id,) in connection.execute("SELECT lead_id FROM deal"))
        keys = Counter(lead_id for (lead_id,) in connection.execute("SELECT lead_id FROM idempotency_key"))
        return {
            lead_id: StoredLead(email, deals[lead_id], tuple(deliveries.get(lead_id, ())), keys[lead_id])
            for lead_id, email in connection.execute("SELECT id, requestor_email FROM lead")
        }


def judge_storage(run: FaultRun, ledger: Ledger, stored: dict[int, StoredLead]) -> None:
    """Compare the leads that were acknowledged with the leads that are stored."""
    gone = sum(
        1
        for lead_id, email in ledger.acknowledged.items()
        if lead_id not in stored or stored[lead_id].email != email
    )
    half = sum(not lead.is_whole for lead in stored.values())
    run.lost += gone + half
    run.duplicated += sum(n - 1 for n in Counter(lead.email for lead in stored.values()).values())
    run.require(half == 0, "no lead is stored without its deal and outbox rows")
    kept = ledger.refused & {lead.email for lead in stored.values()}
    run.require(not kept, "no lead is stored that the server said was not stored")
    run.require(ledger.twice == 0, "no id is given to two leads")
    run.require(set(ledger.answers) <= {201, 503}, "a lead is answered 201 or 503")
