"""Fault runs of several servers on PostgreSQL: a failover, an upgrade, and servers that die or stall."""

import asyncio
import signal
import time

from fault_run import CannotTry, FaultRun, fault
from postgresql import NOT_FOUND, Cluster, binaries
from process_folder import signal_all
from several_servers import MAILS_AT_ONCE, ManyClients, Servers, SharedServer, own_cluster

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
    fsync = "on" if run.timed else "off"  # only a machine that loses its power makes a difference
    for _ in range(run.times):
        with Cluster(fsync=fsync) as primary, primary.standby("standby") as standby:
            async with Servers(run, primary, (primary.port, standby.port), lease=9) as servers:
                seen.append(await _fail_over(run, servers, primary, standby))
    run.seen = "; ".join(seen)


async def _fail_over(run: FaultRun, servers: Servers, primary: Cluster, standby: Cluster) -> str:
    await servers.start()
    async with servers.balanced() as port:
        clients = ManyClients(port, servers.ledger)
        await clients.reach(MORE)
        await _hold_commits(servers, primary)
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
        await clients.reach(0 if run.mutant else MORE)
        await clients.stop()
    await servers.judge(may_be_twice=2 * MAILS_AT_ONCE)
    servers.require_running()
    run.tried += 1
    return (
        f"{len(servers.ledger.acknowledged)} leads, from the kill {from_kill:.1f} s, from the promotion "
        f"{from_promotion:.1f} s, {clients.seen}"
    )


async def _hold_commits(servers: Servers, primary: Cluster) -> None:
    """Have a commit of leads of each server wait for the standby, which knows nothing of its transaction."""
    senders = [pid for (pid,) in primary.query("SELECT pid FROM pg_stat_replication")]
    waiting = """
        SELECT backend_xid::text::bigint, EXISTS (
            SELECT FROM pg_locks WHERE pg_locks.pid = pg_stat_activity.pid
            AND relation = 'lead'::regclass AND mode = 'RowExclusiveLock'
        )
        FROM pg_stat_activity WHERE starts_with(application_name, 'leads server') AND wait_event = 'SyncRep'
    """

    def held() -> list[tuple[int, bool]]:
        return [(row[0], row[1]) for row in primary.query(waiting, database=servers.database)]

    try:
        while True:
            signal_all(senders, signal.SIGSTOP)
            [(next_id,)] = primary.query("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
            await servers.until(lambda: len(held()) >= len(servers.each))
            if all(transaction_id >= next_id and of_leads for transaction_id, of_leads in held()):
                return
            # The standby may have heard of a transaction that had begun before, or one is of mails.
            signal_all(senders, signal.SIGCONT)
            await asyncio.sleep(0.05)
    except BaseException:
        signal_all(senders, signal.SIGCONT)  # without them nothing is committed any more
        raise


@fault(
    "pg-rolling-upgrade",
    "two servers are replaced one after the other under 32 clients",
    short=1,
    long=5,
    mutants=("ends at once when it is told to stop",),
)
async def pg_rolling_upgrade(run: FaultRun) -> None:
    async with Servers(run, own_cluster()) as servers:
        for server in servers.each:
            server.set(stop_delay="3" if run.timed else "2")  # more than HAProxy takes to notice
        await servers.start()
        async with servers.balanced() as port:
            clients = ManyClients(port, servers.ledger, pause=1.0 if run.timed else 2.0)
            await clients.reach(MORE)
            for _ in range(run.times):
                for server in servers.each:
                    if not (run.mutant and run.broken):
                        await _replace(run, server)
                run.tried += 1
            await clients.stop()
        await servers.judge()
        servers.require_running()
    refused = clients.unanswered + clients.repeated + sum(servers.ledger.answers.values())
    refused -= servers.ledger.answers[201]
    run.require(refused == 0, f"each request is answered 201 at its first try ({refused} were not)")
    run.seen = f"{len(servers.ledger.acknowledged)} leads, {clients.seen}"


async def _replace(run: FaultRun, server: SharedServer) -> None:
    began = time.monotonic()
    run.require(await server.stop() == 0, "a stop ends with status 0")
    if run.mutant and run.broken:
        return
    requests = server.log_lines("POST")
    await server.start()
    run.require(await server.until_ready(), "the new server can store leads")
    run.recovered_since(began)
    # The next server may be stopped once the balancer sends requests to this one.
    while server.log_lines("POST") == requests:
        await asyncio.sleep(0.05)


@fault(
    "pg-server-killed",
    "kill -9 of one of two servers while its mails are on their way",
    short=1,
    long=3,
    mutants=("takes over no claim",),
)
async def pg_server_killed(run: FaultRun) -> None:
    took = 0.0
    for _ in range(run.times):
        async with Servers(run, own_cluster(), lease=2) as servers:
            first, second = servers.each
            ids = await _mails_in_flight(servers)
            killed_at = time.monotonic()
            await first.kill()
            servers.mail.release(accept=False)
            servers.mail.pass_on()
            await second.start()
            took = max(took, await _rescue(run, servers, ids, killed_at))
            await servers.post(second, 2)
            await servers.judge()
            run.tried += 1
    run.seen = f"{MAILS_AT_ONCE} mails in flight, delivered {took:.1f} s after the kill"


@fault(
    "pg-server-stalled",
    "one of two servers is stopped for two minutes while its mails are on their way, and goes on",
    short=3,
    long=120,
    mutants=("settles claims that it has lost",),
)
async def pg_server_stalled(run: FaultRun) -> None:
    async with Servers(run, own_cluster(), lease=2) as servers:
        first, second = servers.each
        await _mails_in_flight(servers)
        assert first.process
        stalled_at = time.monotonic()
        first.process.send_signal(signal.SIGSTOP)
        await second.start()
        # The second server sends the same mails now, which are held as well.
        taken = await servers.until(lambda: len(servers.mail.held) >= 2 * MAILS_AT_ONCE)
        run.require(taken, "the other server takes the mails over")
        run.require_quick(time.monotonic() - stalled_at, 60, "the other server takes the mails over")
        rescues = servers.mail.held[MAILS_AT_ONCE:]
        del servers.mail.held[MAILS_AT_ONCE:]
        await asyncio.sleep(run.times - (time.monotonic() - stalled_at))
        servers.mail.release(accept=False)
        went_on_at = time.monotonic()
        first.process.send_signal(signal.SIGCONT)
        lost = "another server took the delivery over"
        await servers.until(lambda: first.log_lines(lost) == MAILS_AT_ONCE)
        run.require(first.log_lines(lost) == MAILS_AT_ONCE, "a stalled server sees that its claims are lost")
        servers.mail.is_holding = False
        for reply in rescues:
            reply.set_result(True)
        run.require(await first.until_ready(), "the stalled server goes on")
        run.recovered_since(went_on_at)
        await servers.post(first, 2)
        await servers.judge()
        servers.require_running()
        run.tried += 1
        run.seen = f"{MAILS_AT_ONCE} mails in flight, {len(servers.mail.mails)} sent"


async def _mails_in_flight(servers: Servers) -> list[int]:
    """Start the first server alone, and have it send mails that are held. Return their ids."""
    first = servers.each[0]
    servers.mail.hold()
    await first.start()
    await servers.post(first, MAILS_AT_ONCE)
    await servers.until(lambda: len(servers.mail.held) == MAILS_AT_ONCE)
    return servers.in_flight()


async def _rescue(run: FaultRun, servers: Servers, ids: list[int], since: float) -> float:
    """Wait until these mails are delivered, though their server is gone. Return the seconds since then."""
    run.require(await servers.until(lambda: servers.are_sent(ids)), "the other server sends the mails")
    run.recovered_since(since)
    took = time.monotonic() - since
    run.require_quick(took, 60, "the mails of a killed server are sent by the other one")
    return took
