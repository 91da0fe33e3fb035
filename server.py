"""The program: settings → parts → routes → run until told to stop."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from tornado.httputil import HTTPServerConnectionDelegate

from handlers import AppContext, make_router, terminal
from handlers.access_log import AccessLog
from handlers.api.admission import MAX_BODY_BYTES
from handlers.api.context import ApiContext, StoredCallback
from handlers.api.cors import Allowlist
from handlers.api.large_bodies import LargeBodies
from handlers.api.rate_limit import RateLimiter
from handlers.api.undeclared_proxies import UndeclaredProxies
from handlers.background_file import in_background
from handlers.connection_shares import ConnectionShares
from handlers.health import Readiness
from handlers.http_server import LimitedHTTPServer, listen, max_connections_allowed
from handlers.log import LogHandler, configure
from jobs.adapters import configured_adapters
from jobs.attention import log_what_waits
from jobs.backup import NightlyBackup
from jobs.clock_monitor import cap_all_due_times, monitor_clock
from jobs.daily_counter import FLUSH_SECONDS, DailyCounter
from jobs.disk_monitor import CHECK_SECONDS, DiskMonitor
from jobs.dispatcher import Dispatcher
from jobs.doctor import run_checks
from models.building import registered_origins, show_building
from models.clock import Clock
from models.database import server_storage
from models.database_url import masked_database_url
from models.disk_space import SpaceBudget, measure_disk
from models.idempotency import key_old_records
from models.installation import check_secret, refuse_moved
from models.intake import Submission, record_leads
from models.outbox.claims import open_outbox
from models.outbox.destination import missing_settings
from models.outbox.digests import MailRates
from models.secret import InstallationSecret
from models.settings import SettingError, Settings
from models.spam import forget_texts
from models.storage import DatabaseUnusable, OutcomeUnknown, StorageError, WriteResult

log = logging.getLogger("leads.server")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SLOW_CLIENT_SECONDS = 15  # how long a client may take for its headers, and again for its body
REOPEN_SECONDS = 1  # how often a database that can't be reached is tried
TICK_SECONDS = 1  # how late a retry may be
BACKUP_CHECK_MINUTES = 1  # how often the server looks whether a backup is due
SECRET_CHECK_SECONDS = 60  # how often the secret is compared with the database's
FINISH_SECONDS = 10.0  # how long a stop waits for the requests in flight, and again for deliveries
EXIT_DISK_FAILED = 74  # EX_IOERR: only a new start can tell what is on the disk
DISK_FAILED = "the disk failed a commit; stopping, to be started anew"
DISK_FAILED_SECONDS = 3.0  # after so long the process is gone, whatever the disk does

MakeRouter = Callable[[AppContext], HTTPServerConnectionDelegate]


class Server:
    """One running server with all of its parts, on a data folder that it alone has."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock | None = None,
        make_router: MakeRouter = make_router,
        access_log: AccessLog | None = None,
    ) -> None:
        """make_router: returns the router; the sandbox passes its own. access_log: None logs no request."""
        self._settings = settings
        self._access_log = access_log or AccessLog()
        self._make_router = make_router
        self._in_flight: set[object] = set()  # requests that are being answered
        self.storage = server_storage(settings, clock)
        self._clock = self.storage.clock
        self._preparing: asyncio.Task[None] | None = None  # while the database can't be reached
        self._secret = InstallationSecret(settings.data_dir, self._clock, settings.secret)
        self.url = ""
        self._unready = ""  # why the last check failed

    async def start(self) -> None:
        """Open the database, start the parts, listen; `url` is then where.

        While a PostgreSQL can't be reached, the server listens and refuses leads, and goes on once it can be.
        Raises DatabaseUnusable, or SettingError for an address that can't be listened on.
        """
        sockets = self._open()
        self.build()
        self.storage.start()
        try:
            await self._prepare()
        except Exception as error:
            if not (self.storage.is_shared and isinstance(error, StorageError)):
                for listener in sockets:
                    listener.close()
                raise
            log.error("waiting for the database", extra={"reason": str(error)})
            self._secret.open()  # for the requests that are refused meanwhile
            self._preparing = asyncio.create_task(self._prepare_later(str(error)))
        self._http.add_sockets(sockets)
        host, port = sockets[0].getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("listening", extra={"url": self.url})

    def _open(self) -> list[socket.socket]:
        self.storage.lock()
        sockets: list[socket.socket] = []
        try:
            # Before a database is made where none was meant to be.
            sockets = listen(self._settings.host, self._settings.port)
            self.storage.open()
        except BaseException:
            for listener in sockets:
                listener.close()
            self.storage.abandon()
            raise
        return sockets

    async def _prepare(self) -> None:
        """Bring the open database into the state that the parts expect, and start them."""
        storage = self.storage
        await asyncio.to_thread(storage.upgrade)
        await storage.write(refuse_moved)
        self._secret.open()  # not before, as a start that is refused leaves no secret behind
        if storage.is_shared:
            await storage.write(check_secret, self._secret.keys())
        await storage.write(open_outbox, frozenset(self._adapters), missing_settings(self._settings))
        await storage.write(key_old_records, self._secret.keys())
        await storage.write(forget_texts)
        await cap_all_due_times(storage, self._clock)
        await log_what_waits(storage, self._settings, self._clock.now())
        self.dispatcher.start()
        self._scheduler.start()
        self._clock_monitor = asyncio.create_task(
            monitor_clock(self._clock, storage, self.dispatcher.wake, self._reschedule_jobs)
        )

    async def _prepare_later(self, reason: str) -> None:
        """Wait until the database can be used, and prepare it. Each new reason for the wait is logged."""
        while True:
            await asyncio.sleep(REOPEN_SECONDS)
            try:
                await self._prepare()
                break
            except (StorageError, DatabaseUnusable, SettingError) as error:
                if str(error) != reason:
                    reason = str(error)
                    log.error("still waiting for the database", extra={"reason": reason})
            except Exception as error:
                if repr(error) != reason:
                    reason = repr(error)
                    log.exception("still waiting for the database")
        self._preparing = None
        log.info("the database can be used")

    def build(self) -> None:
        """Make the parts and connect them; nothing runs yet."""
        settings, clock, storage = self._settings, self._clock, self.storage
        self._adapters = configured_adapters(settings, clock)
        self.dispatcher = Dispatcher(self._adapters, storage, clock, _mail_rates(settings))
        storage.after_commit(record_leads, self.dispatcher.lead_committed)
        self._scheduler = AsyncIOScheduler(
            timezone="UTC",
            # By default APScheduler drops a run that is a second late.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_job(self.dispatcher.wake, "interval", seconds=TICK_SECONDS)
        if settings.backup_keep and not storage.is_shared:
            nightly = NightlyBackup(settings.data_dir, settings.backup_dir, settings.backup_keep, clock)
            self._scheduler.add_job(nightly.make_if_due, "interval", minutes=BACKUP_CHECK_MINUTES)
        self.counter, space_budget = DailyCounter(storage, clock), SpaceBudget()
        self.disk_monitor = DiskMonitor(partial(measure_disk, settings.data_dir), space_budget)
        self._scheduler.add_job(self.counter.flush, "interval", seconds=FLUSH_SECONDS)
        if storage.is_shared:
            # A rotation is noted before the earlier key is forgotten.
            self._scheduler.add_job(self._check_secret, "interval", seconds=SECRET_CHECK_SECONDS)
        else:
            self._scheduler.add_job(self.disk_monitor.check, "interval", seconds=CHECK_SECONDS)
        limiter = RateLimiter(settings.rate_limit, settings.rate_limit_exceptions)
        proxies = settings.trusted_proxies
        api = ApiContext(
            record_lead=self._record_lead,
            count_today=self.counter.count,
            count_buffered=self.counter.count_buffered,
            read_building=lambda id: storage.read(show_building, id, clock.now()),
            secret=self._secret,
            limiter=limiter,
            space_budget=space_budget,
            undeclared_proxies=UndeclaredProxies(proxies, self.counter.count, clock),
            allowlist=Allowlist(lambda: storage.read(registered_origins), settings.public_url, clock),
            trusted_proxies=proxies,
            is_loopback_only=settings.listens_on_loopback,
            clock=clock,
            in_flight=self._in_flight,
            large_bodies=LargeBodies(),
            access_log=self._access_log,
        )
        self._readiness = Readiness(self._check, clock)
        context = AppContext(
            api=api,
            readiness=self._readiness,
            storage=storage,
            wake=self.dispatcher.wake,
            public_url=settings.public_url,
        )
        self._http = LimitedHTTPServer(
            self._make_router(context),
            shares=ConnectionShares(max_connections_allowed(), limiter, proxies),
            timeout_seconds=SLOW_CLIENT_SECONDS,
            max_body_size=MAX_BODY_BYTES,
        )

    async def _check(self) -> None:
        """Raise StorageError unless a lead could be stored now."""
        if self._preparing is not None:
            raise StorageError("the server waits for the database; its log says why")
        try:
            await self.storage.check()
        except StorageError as error:
            if not self.storage.is_shared:
                raise
            # /readyz may be public, and need not name the database's host.
            if str(error) != self._unready:
                self._unready = str(error)
                log.error("no lead can be stored", extra={"reason": str(error)})
            raise StorageError("the database can't be used; the server's log says why") from error
        self._unready = ""

    def _record_lead(self, submission: Submission, callback: StoredCallback) -> None:
        if self._preparing is not None:  # even if it can be reached, it may belong to another secret
            callback(WriteResult(error=StorageError("the server waits for the database")))
            return
        self.storage.submit(record_leads, submission, callback, alone=self._http.has_single_client)

    async def _check_secret(self) -> None:
        try:
            await self.storage.write(check_secret, self._secret.keys())
        except SettingError as error:
            log.error("the secret is not that of the database", extra={"reason": str(error)})
        except StorageError:
            pass  # the writer has logged it

    def _reschedule_jobs(self) -> None:
        # The clock was set back, so each job is due at a time that is far off now.
        for job in self._scheduler.get_jobs():
            job.modify(next_run_time=Clock().now())  # the machine's, by which the scheduler goes

    async def drain(self) -> None:
        """Take leads for the stop delay, with /readyz at 503: a balancer then sends them elsewhere.

        Returns early if the storage fails.
        """
        self._readiness.is_stopping = True
        self._http.conn_params.no_keep_alive = (
            True  # a balancer keeps no connection that the stop would close
        )
        with suppress(TimeoutError):
            await asyncio.wait_for(self.storage.failed.wait(), self._settings.stop_delay)

    async def stop(self, finish_seconds: float = FINISH_SECONDS) -> None:
        """Accept no more requests, finish those in flight and the running deliveries, close."""
        self._http.stop()
        self._http.conn_params.no_keep_alive = True  # stop() alone goes on serving kept-alive connections
        for _ in range(int(finish_seconds * 50)):
            if not (self._in_flight or self._http.awaits_first_request):
                break
            await asyncio.sleep(0.02)
        cut_off = len(self._in_flight)
        await self._http.close_all_connections()
        if self._preparing is not None:
            self._preparing.cancel()
        else:
            self._clock_monitor.cancel()
            self._scheduler.shutdown(wait=False)
            await self.dispatcher.stop(finish_seconds)
            await self.counter.flush()
        await self.storage.close()
        log.info("stopped", extra={"cut_off_requests": cut_off})


def _mail_rates(settings: Settings) -> MailRates | None:
    """Return the rates above which mails leave in digests; None without limits."""
    rates = MailRates(settings.mails_per_source, settings.mails_per_address)
    return rates if rates.per_source or rates.per_address else None


async def _started(server: Server) -> Server:
    await server.start()
    return server


async def _run(server: Server, stop_requested: asyncio.Event) -> int:
    """Run the server until it is told to stop, or its storage fails; return the exit status."""
    stop, failed = (asyncio.create_task(event.wait()) for event in (stop_requested, server.storage.failed))
    await asyncio.wait({stop, failed}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    failed.cancel()
    if not server.storage.failed.is_set():
        await server.drain()
    if not server.storage.failed.is_set():
        await server.stop()
        return 0
    log.critical(DISK_FAILED, extra={"status": EXIT_DISK_FAILED})
    last_resort = threading.Timer(DISK_FAILED_SECONDS, os._exit, [EXIT_DISK_FAILED])
    last_resort.daemon = True
    last_resort.start()
    try:
        await server.stop(finish_seconds=DISK_FAILED_SECONDS / 3)
    except Exception:  # closing writes as well
        log.exception("the stop failed")
    return EXIT_DISK_FAILED


def _install_signal_handlers() -> asyncio.Event:
    """Return an event that is set by the first stop signal; a second one ends the process at once."""
    loop, stop_requested = asyncio.get_running_loop(), asyncio.Event()

    def request_stop() -> None:
        stop_requested.set()
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            loop.add_signal_handler(number, request_stop)
    return stop_requested


def _start_log(settings: Settings) -> LogHandler:
    # Whatever is printed from now on, the traceback of a crash included, waits for no reader.
    sys.stdout, sys.stderr = in_background(sys.stdout), in_background(sys.stderr)
    handler = configure(settings.log_format)
    for variable in settings.foreign:
        facts = {"variable": variable.name, "reason": variable.reason}
        log.warning("a variable of the environment is ignored", extra=facts)
    return handler


def serve(settings: Settings) -> int:
    """Run the server until SIGTERM or Ctrl-C. Return 0, or 74 if the disk failed a commit."""
    access_log = AccessLog(_start_log(settings))

    async def run() -> int:
        stop_requested = _install_signal_handlers()
        try:
            server = await _started(Server(settings, access_log=access_log))
        except OutcomeUnknown:
            log.critical(DISK_FAILED, extra={"status": EXIT_DISK_FAILED})
            return EXIT_DISK_FAILED
        place = masked_database_url(settings.database_url) or settings.data_dir.absolute()
        print(f"Website leads at {server.url} (data in {place})", flush=True)
        return await _run(server, stop_requested)

    return asyncio.run(run())


def _throwaway(
    settings: Settings, tell: Callable[[str], None], greeting: Callable[[str, Path], str], *, any_port: bool
) -> int:
    from handlers.sandbox.app import make_sandbox_router, sandbox_environment

    _start_log(settings)
    logging.getLogger("leads").setLevel(logging.WARNING)  # what there is to see is at /sandbox

    async def run() -> int:
        stop_requested = _install_signal_handlers()
        async with sandbox_environment(settings, tell) as (environment, its_settings):
            make_its_router = partial(make_sandbox_router, environment)
            try:
                server = await _started(Server(its_settings, environment.clock, make_its_router))
            except SettingError:
                if not any_port or settings.origin("port") != "default":
                    raise
                print(f"  Port {settings.port} is taken, so this is on another.", flush=True)
                any_free_port = replace(its_settings, port=0)
                server = await _started(Server(any_free_port, environment.clock, make_its_router))
            print(greeting(server.url, its_settings.data_dir), flush=True)
            return await _run(server, stop_requested)

    return asyncio.run(run())


def sandbox(settings: Settings) -> int:
    """Run a throwaway server for tests, with a mailbox and a partner, until it is told to stop."""
    # Only now: importing the sandbox takes a tenth of the start of `serve`, which has no use for it.
    from handlers.sandbox.banner import greeting

    return _throwaway(settings, lambda line: None, greeting, any_port=False)


def demo(settings: Settings) -> int:
    """Run a sandbox for people: print each message that is sent, and use a free port if need be."""
    from handlers.sandbox.banner import banner

    return _throwaway(settings, lambda line: print(f"  {line}", flush=True), banner, any_port=True)


if __name__ == "__main__":
    programs = {"serve": serve, "sandbox": sandbox, "demo": demo}
    sys.exit(terminal.main(sys.argv[1:], programs, run_checks))
