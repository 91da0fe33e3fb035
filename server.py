"""Owns the front door: settings → parts → routes → run until told to stop."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from tornado.httputil import HTTPServerConnectionDelegate
from tornado.netutil import bind_sockets

from handlers import Inside, front_door, terminal
from handlers.api.cors import Allowlist
from handlers.api.exchange import MAX_BODY_BYTES, Api, Stored
from handlers.api.throttle import Throttle
from handlers.connections import BACKLOG, ConnectionServer, room_for_connections
from handlers.health import Readiness
from handlers.log import configure
from handlers.sandbox.world import banner, greeting, sandbox_world
from jobs.backup import NightlyBackup
from jobs.checkup import check_ways_out
from jobs.delivery import Adapter
from jobs.dispatcher import Dispatcher
from jobs.email import EmailAdapter
from jobs.june_homes import JuneHomesAdapter
from jobs.watchdog import watch_the_clock
from models.building import list_buildings, registered_origins
from models.clock import Clock
from models.data_folder import open_database, settle_journal
from models.database import OutcomeUnknown, close_database
from models.destination import EMAIL, JUNE_HOMES
from models.folder_lock import server_lock
from models.intake import Submission, record_leads
from models.outbox import open_outbox
from models.outbox_clock import call_in
from models.outbox_report import list_destinations
from models.reader import Reader
from models.settings import SettingError, Settings
from models.storage_check import check_storage
from models.writer import Writer

log = logging.getLogger("leads.server")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SLOW_CLIENT_SECONDS = 15  # how long a client may take for its headers, and again for its body
TICK_SECONDS = 1  # how late a retry may be
LOOK_FOR_BACKUP_MINUTES = 1  # how often it is asked whether a backup is due
FINISH_SECONDS = 10.0  # how long a stop waits for the requests that are being answered, and for deliveries
DISK_FAILED = 74  # what the process exits with (EX_IOERR) when only a new start can tell what is on the disk
MUST_STOP = "the disk failed a commit; stopping, to be started anew"
DISK_FAILED_SECONDS = 3.0  # then it is gone after so long at most, whatever the disk does


class Server:
    """All the parts of one running server, on one data folder that it alone has."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock | None = None,
        entrance: Callable[[Inside], HTTPServerConnectionDelegate] = front_door,
    ) -> None:
        """entrance: makes what requests come in by."""
        self._settings = settings
        self._entrance = entrance
        self._clock = clock or Clock()
        self._lock = server_lock(settings.data_dir)
        self._in_flight: set[object] = set()  # the requests that are being answered
        self.url = ""

    async def start(self) -> None:
        """Open the database, start the parts, listen; `url` is then where.

        Raises DatabaseRefused, or SettingError for an address that can't be listened on.
        """
        settings, clock = self._settings, self._clock
        self._lock.acquire()
        sockets: list[socket.socket] = []
        try:
            sockets = _listen(settings)  # before a database is made where none was meant to be
            open_database(settings.data_dir, locked=True)
            settle_journal()
        except BaseException:
            close_database()
            for listener in sockets:
                listener.close()
            self._lock.release()
            raise
        self.writer, self.reader = Writer(), Reader()
        self.writer.start()
        adapters = _adapters(settings, clock)
        self.dispatcher = Dispatcher(adapters, self.writer, clock)
        self.writer.after_commit_of(record_leads, self.dispatcher.lead_came)
        await self.writer.write(open_outbox, frozenset(adapters))
        await self.writer.write(call_in, clock.now())
        api = Api(
            record_lead=self._record_lead,
            throttle=Throttle(settings.rate_limit, settings.rate_limit_exceptions),
            allowlist=Allowlist(lambda: self.reader.read(registered_origins), settings.public_url, clock),
            trusted_proxies=settings.trusted_proxies,
            clock=clock,
            in_flight=self._in_flight,
        )
        readiness = Readiness(lambda: self.writer.write(check_storage, clock.now()), clock)
        self._scheduler = AsyncIOScheduler(
            timezone="UTC",
            # By default a job that is a second late is dropped for good.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )
        self._scheduler.add_job(self.dispatcher.wake, "interval", seconds=TICK_SECONDS)
        if settings.backup_keep:
            nightly = NightlyBackup(settings.data_dir, settings.backup_dir, settings.backup_keep, clock)
            self._scheduler.add_job(nightly.make_if_due, "interval", minutes=LOOK_FOR_BACKUP_MINUTES)
        self._http = ConnectionServer(
            self._entrance(
                Inside(api, readiness, self.reader, self.writer, self.dispatcher.wake, settings.public_url)
            ),
            most_connections=room_for_connections(),
            patience_seconds=SLOW_CLIENT_SECONDS,
            max_body_size=MAX_BODY_BYTES,
        )
        if not await self.reader.read(list_buildings, clock.now()):
            log.warning(
                "no building is registered, so nobody is told of leads; is it the right folder?",
                extra={"data_dir": str(settings.data_dir.absolute()), "register_one_by": "building add"},
            )
        for place in await self.reader.read(list_destinations, clock.now()):
            if place["waits_because"] and (place["pending"] or place["kind"] == EMAIL):
                waiting = {name: place[name] for name in ("kind", "pending", "waits_because")}
                log.warning("the outbox waits", extra=waiting)
        self.dispatcher.start()
        self._scheduler.start()
        self._watchdog = asyncio.create_task(
            watch_the_clock(clock, self.writer, self.dispatcher.wake, self._tick_on)
        )
        self._http.add_sockets(sockets)
        host, port = sockets[0].getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("listening", extra={"url": self.url})

    def _record_lead(self, submission: Submission, stored: Stored) -> None:
        self.writer.submit(record_leads, submission, stored, alone=self._http.is_quiet)

    def _tick_on(self) -> None:
        # The clock was set back: each job is due at a time that is far off now.
        for job in self._scheduler.get_jobs():
            job.modify(next_run_time=self._clock.now())

    async def stop(self, finish_seconds: float = FINISH_SECONDS) -> None:
        """Take no more requests, finish those in flight and the deliveries on their way, close."""
        self._http.stop()
        self._http.conn_params.no_keep_alive = True  # stop() alone goes on serving kept-alive connections
        for _ in range(int(finish_seconds * 50)):
            if not self._in_flight:
                break
            await asyncio.sleep(0.02)
        cut_off = len(self._in_flight)
        await self._http.close_all_connections()
        self._watchdog.cancel()
        self._scheduler.shutdown(wait=False)
        await self.dispatcher.stop(finish_seconds)
        await self.reader.close()
        await self.writer.close()
        self._lock.release()
        log.info("stopped", extra={"cut_off_requests": cut_off})


def _listen(settings: Settings) -> list[socket.socket]:
    try:
        return bind_sockets(settings.port, settings.host or None, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "that is no host name"
        raise SettingError(
            f"can't listen on {settings.host} port {settings.port}: {reason}; "
            "choose another with --host or --port, or LEADS_HOST or LEADS_PORT"
        ) from None


def _adapters(settings: Settings, clock: Clock) -> dict[str, Adapter]:
    """The adapter of each kind that has somewhere to go; the other kinds wait in the outbox."""
    adapters: dict[str, Adapter] = {}
    if settings.smtp_url is not None:
        adapters[EMAIL] = EmailAdapter(settings.smtp_url, settings.mail_from)
    if settings.june_homes_url:
        adapters[JUNE_HOMES] = JuneHomesAdapter(settings.june_homes_url, settings.june_homes_secret, clock)
    return adapters


async def _started(server: Server) -> Server:
    await server.start()
    return server


async def _run(server: Server, told_to_stop: asyncio.Event) -> int:
    """Let it run until it is told to stop or must; answers with the exit status."""
    stop, broken = (asyncio.create_task(event.wait()) for event in (told_to_stop, server.writer.broken))
    await asyncio.wait({stop, broken}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    broken.cancel()
    if not server.writer.broken.is_set():
        await server.stop()
        return 0
    log.critical(MUST_STOP, extra={"status": DISK_FAILED})
    last_resort = threading.Timer(DISK_FAILED_SECONDS, os._exit, [DISK_FAILED])
    last_resort.daemon = True
    last_resort.start()
    try:
        await server.stop(finish_seconds=DISK_FAILED_SECONDS / 3)
    except Exception:  # closing writes as well
        log.exception("the stop failed")
    return DISK_FAILED


def _listen_to_signals() -> asyncio.Event:
    """An event that is set when the process is told to stop. Told twice, it ends at once."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        told.set()
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it for SIGHUP
            loop.add_signal_handler(number, tell)
    return told


def serve(settings: Settings) -> int:
    """Run the server until SIGTERM or Ctrl-C; answers with the exit status: 0, or 74 if the disk failed."""
    configure(settings.log_format)

    async def run() -> int:
        told_to_stop = _listen_to_signals()
        try:
            server = await _started(Server(settings))
        except OutcomeUnknown:
            log.critical(MUST_STOP, extra={"status": DISK_FAILED})
            return DISK_FAILED
        print(f"Website leads at {server.url} (data in {settings.data_dir.absolute()})", flush=True)
        return await _run(server, told_to_stop)

    return asyncio.run(run())


def _throwaway(
    settings: Settings, tell: Callable[[str], None], greeting: Callable[[str, Path], str], *, any_port: bool
) -> int:
    configure(settings.log_format)
    logging.getLogger("leads").setLevel(logging.WARNING)  # what there is to see is at /sandbox

    async def run() -> int:
        told_to_stop = _listen_to_signals()
        async with sandbox_world(settings, tell) as (world, its_settings):
            try:
                server = await _started(Server(its_settings, world.clock, world.entrance))
            except SettingError:
                if not any_port or settings.origin("port") != "default":
                    raise
                print(f"  Port {settings.port} is taken, so this is on another.", flush=True)
                server = await _started(Server(replace(its_settings, port=0), world.clock, world.entrance))
            print(greeting(server.url, its_settings.data_dir), flush=True)
            return await _run(server, told_to_stop)

    return asyncio.run(run())


def sandbox(settings: Settings) -> int:
    """Run a throwaway server with a seeded building, a mailbox and a partner, for tests, until it is told to
    stop.
    """
    return _throwaway(settings, lambda line: None, greeting, any_port=False)


def demo(settings: Settings) -> int:
    """The same, for people: on another port if theirs is taken, and what leaves is told on the terminal."""
    return _throwaway(settings, lambda line: print(f"  {line}", flush=True), banner, any_port=True)


if __name__ == "__main__":
    programs = {"serve": serve, "sandbox": sandbox, "demo": demo}
    sys.exit(terminal.main(sys.argv[1:], programs, check_ways_out))
