"""Owns the browser of these tests, and the website whose pages it opens: another origin than the server's."""

import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from axe_playwright_python.sync_playwright import Axe
from leads_sandbox import Sandbox
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
# What a careful website allows: nothing inline, scripts and calls of the leads server alone.
POLICY = (
    "default-src 'none'; script-src {leads}; connect-src {leads}; form-action {leads} 'self'; base-uri 'none'"
)


class Website:
    """A building's website: pages by path, on a port of its own."""

    def __init__(self, leads: str) -> None:
        website = self
        self.pages: dict[str, str] = {}

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = website.pages.get(self.path.partition("?")[0])
                self.send_response(200 if page is not None else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Security-Policy", POLICY.format(leads=leads))
                self.end_headers()
                self.wfile.write((page or "").encode())

            def log_message(self, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium. Not for longer than a module: meanwhile no other loop can run in this thread."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium; install it, or name it in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a browser that has no history."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(15_000)
    yield page
    context.close()


@pytest.fixture
def website(leads_sandbox: Sandbox) -> Iterator[Website]:
    """The website of a building whose token is 'oak'; its page '/' has the form."""
    website = Website(leads_sandbox.url)
    website.pages["/"] = with_form(leads_sandbox)
    yield website
    website.stop()


@pytest.fixture
def registered(leads_sandbox: Sandbox, website: Website) -> Website:
    """The same, registered with the building."""
    leads_sandbox.register(
        token="oak", website_url=website.url, agent_email="agent@oak.test", time_zone="America/New_York"
    )
    return website


def with_form(sandbox: Sandbox, attributes: str = "", language: str = "en") -> str:
    """A page with the script tag."""
    return f"""<!doctype html><html lang="{language}"><title>The Oak</title><main><h1>The Oak</h1>
<script src="{sandbox.url}/static/lead-form.js" data-token="oak" data-time-zone="America/New_York"
 data-units="2A, 4B" data-listing-source="zillow" {attributes} defer></script></main>"""


def serious(page: Page) -> list[str]:
    """What keeps people out of the page, by axe's own names."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {[node['html'] for node in one['nodes']]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
