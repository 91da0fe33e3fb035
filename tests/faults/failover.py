"""Fault runs of several servers on PostgreSQL: a failover, an upgrade, and servers that die or stall."""

import asyncio
import os
import signal
import time

from fault_run import CannotTry, FaultRun, fault
from postgresql import NOT_FOUND, Cluster, binaries
from several_servers import MAILS_AT_ONCE, BalancedClients, Servers


MORE = 30  # leads that are acknowledged before and after each fault


@fault(
    "pg-failover",
    "kill -9 of the primary under 32 clients of two servers; the standby is promoted",
    short=1,
    long=5,
    mutants=("commits on the primary alone", "believes another timeline"),
)
async def pg_failover(run: FaultRun) -> None:
    if binaries() is None:
        raise CannotTry(NOT_FOUND)
    seen: list[str] = []
    for _ in range(run.times):
        with Cluster(fsync="on") as primary, primary.standby("standby", fsync="on") as standby:
            async with Servers(run, primary, (primary.port, standby.port)) as servers:
                seen.append(await _fail_over(run, servers, primary, standby))
    run.seen = "; ".join(seen)


async def _fail_over(run: FaultRun, servers: Servers, primary: Cluster, standby: Cluster) -> str:
    await servers.start()
    async with servers.balanced() as port:
        clients = BalancedClients([port], servers.ledger)
        await clients.reach(MORE)
        for (sender,) in primary.query("SELECT pid FROM pg_stat_replication"):
            os.kill(sender, signal.SIGSTOP)  # so that commits wait for the standby when the primary dies
        await asyncio.sleep(0.5)
        killed_at = time.monotonic()
        primary.kill()
        await asyncio.to_thread(standby.promote)
        promoted_at = time.monotonic()
        servers.cluster = standby
        for _ in range(20):  # other programs write, too: they get the ids of the lost transactions
            standby.query("SELECT txid_current()")
        await asyncio.gather(*(server.first_answer(servers.ledger) for server in servers.each))
        from_kill, from_promotion = (time.monotonic() - moment for moment in (killed_at, promoted_at))
        run.require_quick(from_promotion, 15, "each server takes leads again after the promotion")
        for server in servers.each:
            run.require(await server.until_ready(), "readyz is 200 again on each server")
        run.recovered_since(promoted_at)
        await clients.reach(MORE)
        await clients.stop()
    await servers.judge(may_be_twice=2 * MAILS_AT_ONCE)
    run.tried += 1
    return (
        f"{len(servers.ledger.acknowledged)} leads, from the kill {from_kill:.1f} s, from the promotion "
        f"{from_promotion:.1f} s, {clients.seen}"
    )
