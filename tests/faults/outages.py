"""Fault runs of a PostgreSQL that servers can't reach, or that fails them: cut off, stopped, in a commit."""

import asyncio
import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fault_run import CannotTry, FaultRun, fault
from lead_client import Client, Disconnected, Ledger, lead_body, post_lead
from link import CUT_NEEDS_ROOT, Link, can_cut
from several_servers import MAILS_AT_ONCE, ManyClients, Servers, SharedServer, own_cluster

LONGEST_ANSWER_SECONDS = 20
LOG_LINES = 20  # that an outage may cost, however many leads are refused
# For the short form, as an operator may set it: a cut is noticed within a second.
QUICK = "connect_timeout=2&tcp_user_timeout=1000&keepalives_idle=1"


class Probe:
    """A client that posts a lead to one server again and again, and times the answers."""

    def __init__(self, server: SharedServer, ledger: Ledger) -> None:
        self._server, self._ledger = server, ledger
        self.refusals = 0
        self.slowest = 0.0
        self.is_unclear = False  # a refusal without Retry-After, or no answer
        self._task = asyncio.create_task(self._post())

    async def _post(self) -> None:
        client = Client(self._server.port)
        try:
            while True:
                began = time.monotonic()
                answer = await post_lead(client, self._ledger)
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.refusals += answer.status == 503
                self.is_unclear |= answer.status == 503 and "retry-after" not in answer.headers
                await asyncio.sleep(0.05)
        except Disconnected:
            self.is_unclear = True
        finally:
            await client.close()

    async def stop(self, run: FaultRun) -> None:
        """Stop, and check the answers. Waits for the last one."""
        await asyncio.sleep(0)
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        run.require(self.refusals, "leads are refused meanwhile")
        run.require(not self.is_unclear, "each lead is answered, a refused one with Retry-After")
        run.require_quick(self.slowest, LONGEST_ANSWER_SECONDS, "each lead is answered")


@fault(
    "pg-network-cut",
    "the network between one of two servers and the database is cut",
    short=1,
    long=2,
    mutants=("takes over no claim",),
)
async def pg_network_cut(run: FaultRun) -> None:
    if not can_cut():
        raise CannotTry(CUT_NEEDS_ROOT.removeprefix("NOT RUN: "))
    cluster, seen = own_cluster(), list[str]()
    # For less than a lease, and for longer: then the other server takes the mails over.
    lengths = (30.0, 75.0) if run.timed else (0.0,)
    for seconds in lengths[: run.times]:
        with Link(cluster.port) as link:
            async with Servers(run, cluster, lease=3, options="" if run.timed else QUICK) as servers:
                servers.each[0].set(database_url=servers.url(link.port))
                seen.append(await _cut(run, servers, link, seconds))
        run.tried += 1
    run.seen = f"{'; '.join(seen)}"


async def _cut(run: FaultRun, servers: Servers, link: Link, seconds: float) -> str:
    cut_off, other = servers.each
    await servers.start()
    async with servers.balanced() as port:
        clients = ManyClients(port, servers.ledger, pause=1.0)
        await clients.reach(20)
        servers.mail.hold()
        await servers.until(lambda: len(servers.mail.held) >= 2 * MAILS_AT_ONCE)
        ids = servers.in_flight()
        cut_at = time.monotonic()
        link.cut("unanswered")
        probe = Probe(cut_off, servers.ledger)
        servers.mail.pass_on()  # they leave, but the one server can't settle them
        while probe.refusals < 5 and not probe.is_unclear:
            await asyncio.sleep(0.05)
        # The mails of the other server, and after a lease those of the server that is cut off.
        sent = not seconds or seconds > 45
        if sent:
            run.require(
                await servers.until(lambda: servers.are_sent(ids)), "the other server takes mails over"
            )
            run.require_quick(time.monotonic() - cut_at, 60, "the other server takes mails over")
        await asyncio.sleep(seconds - (time.monotonic() - cut_at))
        run.require(await other.until_ready(), "the other server takes leads meanwhile")
        link.mend()
        mended_at = time.monotonic()
        run.require(await cut_off.until_ready(), "the server that was cut off goes on")
        run.recovered_since(mended_at)
        await probe.stop(run)
        await clients.stop()
    await servers.judge(may_be_twice=MAILS_AT_ONCE)
    servers.require_running()
    return (
        f"cut for {mended_at - cut_at:.0f} s: {clients.seen}; "
        f"cut off: {probe.refusals} x 503, slowest answer {probe.slowest:.1f} s"
    )


# Each lead sleeps at its commit, before the record of the commit is written, for the seconds in the table.
# Each so-many-th one meets another transaction there, of which it says so.
SLOW_COMMIT = """
CREATE TABLE slow (seconds float, conflict_each int); GRANT SELECT ON slow TO PUBLIC;
CREATE SEQUENCE turns; GRANT USAGE ON turns TO PUBLIC;
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE settings slow; turn int := nextval('turns');
BEGIN
    SELECT * INTO settings FROM slow;
    PERFORM pg_sleep(settings.seconds);
    IF turn % settings.conflict_each = 0 THEN
        RAISE EXCEPTION 'conflict' USING ERRCODE = CASE WHEN turn % 2 = 0 THEN '40001' ELSE '40P01' END;
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON lead DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION slow();
"""


class Commits:
    """The commits of the leads in a database, which can be made slow."""

    def __init__(self, servers: Servers, link: Link) -> None:
        self._servers, self._link = servers, link
        self._cluster = servers.cluster
        servers.rows(SLOW_COMMIT)

    def slow_down(self, *, recorded: bool) -> None:
        """Let each commit wait. recorded: once its record is written."""
        if recorded:
            self._servers.rows("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            self._servers.rows("SELECT pg_reload_conf()")
        else:
            self._servers.rows("SET synchronous_commit = local; INSERT INTO slow VALUES (60)")

    def speed_up(self) -> None:
        """Let commits go on at their speed."""
        self._servers.rows("SET synchronous_commit = local; DELETE FROM slow")
        self._servers.rows("ALTER SYSTEM RESET synchronous_standby_names")
        self._servers.rows("SELECT pg_reload_conf()")

    def waiting(self) -> list[int]:
        """Return the processes whose commit waits."""
        sql = """
            SELECT pid FROM pg_stat_activity WHERE datname = current_database()
            AND starts_with(application_name, 'leads server') AND wait_event IN ('PgSleep', 'SyncRep')
        """
        return [pid for (pid,) in self._servers.rows(sql)]

    def terminate(self, pid: int) -> None:
        """End a session."""
        self._servers.rows("SELECT pg_terminate_backend(%s)", pid)

    def kill_session(self, pid: int) -> None:
        """End a session's process by SIGKILL; PostgreSQL then starts anew by itself."""
        os.kill(pid, signal.SIGKILL)

    def kill_cluster(self, pid: int) -> None:
        """End PostgreSQL by SIGKILL, and start it."""
        self._cluster.kill()
        self._cluster.start()

    def cut(self, pid: int) -> None:
        """Cut the network, and mend it. The session hears no more of its server."""
        self._link.cut("refused")
        time.sleep(0.1)
        self._link.mend()


@fault(
    "pg-commit-outcome",
    "the connection breaks during COMMIT, before its record is written and after that",
    short=6,
    long=48,
    mutants=("takes a broken commit for none", "takes a broken commit for made"),
)
async def pg_commit_outcome(run: FaultRun) -> None:
    cluster = own_cluster()
    with Link(cluster.port) as link:
        async with Servers(run, cluster, count=1, options=QUICK) as servers:
            [server] = servers.each
            server.set(database_url=servers.url(link.port))
            await server.start()
            commits = Commits(servers, link)
            ends: list[Callable[[int], None]] = [
                commits.terminate,
                commits.kill_session,
                commits.kill_cluster,
            ]
            if can_cut():
                ends.append(commits.cut)
            clients = ManyClients(server.port, servers.ledger, 16, balanced=False)
            cases = itertools.cycle(itertools.product(ends, (False, True)))
            told: Counter[str] = Counter()
            try:
                for end, recorded in itertools.islice(cases, run.times):
                    await _break_commit(run, servers, commits, end, recorded)
                    for event in ("the commit had been made", "the commit had not been made"):
                        told[event] = server.log_lines(event)
                    run.tried += 1
                    await clients.reach(5)
            finally:
                commits.speed_up()
            await clients.stop()
            await servers.judge()
            servers.require_running()
    run.seen = f"{clients.seen}; {told}"


async def _break_commit(
    run: FaultRun, servers: Servers, commits: Commits, end: Callable[[int], None], recorded: bool
) -> None:
    commits.slow_down(recorded=recorded)
    if not await servers.until(commits.waiting):
        raise AssertionError("no commit waits")
    [pid, *_] = commits.waiting()
    broken_at = time.monotonic()
    if recorded:  # else the commit would be over before it breaks
        await asyncio.to_thread(end, pid)
        commits.speed_up()
    else:  # else the repeated one would wait as well
        commits.speed_up()
        await asyncio.to_thread(end, pid)
    await servers.each[0].first_answer(servers.ledger)
    run.recovered_since(broken_at)


@fault(
    "pg-down",
    "PostgreSQL is stopped at the start of a server, and again under load",
    short=100,
    long=2000,
    mutants=("logs each refused lead", "connects no more"),
)
async def pg_down(run: FaultRun) -> None:
    cluster = own_cluster()
    async with Servers(run, cluster, count=1, lease=3) as servers:
        [server] = servers.each
        async with _stopped(servers):
            await server.start()
            server.keep_port()
            run.require(not await server.is_ready(), "readyz says that no lead can be stored")
            probe = Probe(server, servers.ledger)
            while probe.refusals < 3 and not probe.is_unclear:
                await asyncio.sleep(0.02)
        run.require(await server.until_ready(), "the server goes on without a restart")
        await probe.stop(run)
        if run.mutant and run.broken:
            return
        clients = ManyClients(server.port, servers.ledger, 16, pause=0.5, balanced=False)
        await clients.reach(10)
        servers.mail.hold()
        await servers.until(lambda: servers.mail.held)
        async with _stopped(servers):
            logged = _events(server)
            refused = servers.ledger.answers[503] + run.times
            servers.mail.pass_on()
            while servers.ledger.answers[503] < refused:
                await asyncio.sleep(0.02)
            lines = _events(server) - logged
            run.require(lines <= LOG_LINES, f"the log does not grow with each refused lead ({lines} lines)")
        began = time.monotonic()
        run.require(await server.until_ready(), "the server goes on when the database is back")
        run.recovered_since(began)
        if run.mutant and run.broken:
            return
        await clients.reach(10)
        await clients.stop()
        run.require_quick(clients.slowest_refusal, 2, "a refused lead is answered")
        stops = []
        if run.timed:  # the stop waits to settle the mail that is on its way
            servers.mail.hold()
            await servers.post(server, 1)
            await servers.until(lambda: servers.mail.held)
        for hangs in (False, True):
            async with _stopped(servers, hangs=hangs):
                servers.mail.pass_on()
                began = time.monotonic()
                run.require(await server.stop() == 0, "a server ends with status 0 without a database")
                stops.append(time.monotonic() - began)
                run.require_quick(stops[-1], 25, "a server stops without a database")
            await server.start()
            if run.mutant or not run.timed:
                break
        # What was on its way when a server stopped may leave twice.
        await servers.judge(may_be_twice=len(stops) * MAILS_AT_ONCE)
        servers.require_running()
        run.tried += run.times
    run.seen = (
        f"{clients.seen}; {lines} lines of log for {run.times} refused leads; "
        f"stops took {', '.join(f'{seconds:.1f} s' for seconds in stops)}"
    )


@asynccontextmanager
async def _stopped(servers: Servers, *, hangs: bool = False) -> AsyncIterator[None]:
    """Stop PostgreSQL in the block. hangs: it only answers no more."""
    cluster = servers.cluster
    await asyncio.to_thread(cluster.pause if hangs else cluster.stop)
    try:
        yield
    finally:
        await asyncio.to_thread(cluster.resume if hangs else cluster.start)


def _events(server: SharedServer) -> int:
    """Return how many lines the server has logged, without those of requests."""
    return sum("POST" not in line and "GET" not in line for line in server.log.read_text().splitlines())


@fault(
    "pg-conflicts",
    "32 clients of two servers send the same few renters, phones and keys",
    short=320,
    long=6400,
    mutants=("repeats nothing after a conflict",),
)
async def pg_conflicts(run: FaultRun) -> None:
    chances = run.seeded_random()
    async with Servers(run, own_cluster()) as servers:
        await servers.start()
        servers.rows(SLOW_COMMIT)
        servers.rows("INSERT INTO slow VALUES (0.005, 33)")  # so that the servers' transactions overlap
        answers: Counter[int] = Counter()
        ids: dict[str, set[int]] = {}

        async def post(client: Client, number: int) -> None:
            key = f"key {chances.randrange(8)}.{number // 32}"
            renter = chances.randrange(6)
            phone = f"+1212555{100 + chances.randrange(4):04}"
            is_keyed = chances.random() < 0.5
            email = f"{key.replace(' ', '')}@renter.test" if is_keyed else f"Renter{renter}@renter.test"
            headers = {"Idempotency_Key": key} if is_keyed else {}
            fields = {} if is_keyed else {"requestor_phone": phone}
            answer = await client.post(lead_body(email, **fields), **headers)
            answers[answer.status] += 1
            if answer.status == 201:
                name = key if is_keyed else f"lead {number}"
                ids.setdefault(name, set()).add(json.loads(answer.body)["id"])

        async def post_many(at: int) -> None:
            client = servers.each[at % 2].client()
            for number in range(at, run.times, 32):
                await post(client, number)

        await asyncio.gather(*map(post_many, range(32)))
        run.tried = run.times
        run.recovery = 0.0
        refused = run.times - answers[201]
        run.require(refused == 0, f"no lead is refused because of another one ({dict(answers)})")
        run.require(all(len(each) == 1 for each in ids.values()), "one key makes one lead")
        stored = {lead_id for (lead_id,) in servers.rows("SELECT id FROM lead")}
        acknowledged = {lead_id for each in ids.values() for lead_id in each}
        run.lost = len(acknowledged - stored)
        run.duplicated = len(stored - acknowledged)
        for column in ("email_key", "phone_key"):
            several = f"SELECT FROM customer GROUP BY {column} HAVING count({column}) > 1"
            run.require(not servers.rows(several), f"one customer for each {column}")
        [(deadlocks,)] = servers.rows(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
        servers.require_running()
        run.seen = f"{len(stored)} leads, {deadlocks} deadlocks"
