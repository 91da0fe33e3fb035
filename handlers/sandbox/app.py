"""The sandbox as a whole: its environment, its settings and its routes."""

import secrets
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from handlers import AppContext, Router, pages
from handlers.sandbox.database import DEMO_TOKEN, seed_database
from handlers.sandbox.environment import SandboxEnvironment
from handlers.sandbox.pages import sandbox_pages
from handlers.sandbox.recording import RecordedHandler, RecordedLeadsHandler
from models.setting_values import SmtpServer
from models.settings import Settings

SENDER = "leads@sandbox.test"  # of the mail, unless the settings name another


@asynccontextmanager
async def sandbox_environment(
    settings: Settings, notify: Callable[[str], None]
) -> AsyncIterator[tuple[SandboxEnvironment, Settings]]:
    """Run an environment, and yield it with the settings that connect a server to it.

    notify: is called with one line for each mail and each partner call. The environment's folder is deleted
    at the end.
    """
    environment = SandboxEnvironment(notify)
    with tempfile.TemporaryDirectory(prefix="leads-sandbox-") as folder:
        await environment.mailbox.start()
        environment.partner.start()
        seed_database(Path(folder), environment.clock.now())
        yield (
            environment,
            replace(
                settings,
                data_dir=Path(folder),
                database_url="",
                backup_keep=0,
                mail_from=SENDER if settings.sender_fault else settings.mail_from,
                smtp_url=SmtpServer("127.0.0.1", environment.mailbox.port, False, "never", None, None),
                mails_per_source=0,  # a test sees one mail for each lead
                mails_per_address=0,
                june_homes_url=environment.partner.url,
                june_homes_secret=secrets.token_bytes(),
            ),
        )
        await environment.partner.stop()
        await environment.mailbox.stop()


def make_sandbox_router(environment: SandboxEnvironment, context: AppContext) -> Router:
    """Connect the environment to the server, and return the server's router with the sandbox's routes.

    Every request to the API is recorded.
    """
    environment.connect(context)
    return Router(
        context.api,
        [*pages(context, DEMO_TOKEN), *sandbox_pages(environment)],
        leads=partial(RecordedLeadsHandler, environment.recorder),
        unknown=partial(RecordedHandler, environment.recorder),
        test_bench="/sandbox/",
    )
