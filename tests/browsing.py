"""Browser fixtures, and a website on another origin than the leads server."""

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
# A strict Content-Security-Policy: nothing inline, scripts and requests only from and to the leads server.
POLICY = (
    "default-src 'none'; script-src {leads}; connect-src {leads}; form-action {leads} 'self'; base-uri 'none'"
)


class Website:
    """HTTP server of a building's website, on a free port. pages: HTML by path."""

    def __init__(self, leads: str) -> None:
        website = self
        self.pages: dict[str, str] = {}
        self.headers: dict[str, str] = {}  # of every page; they replace the usual ones
        self.charset = "utf-8"

        class PageHandler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = website.pages.get(self.path.partition("?")[0])
                self.send_response(200 if page is not None else 404)
                headers = {
                    "Content-Type": f"text/html; charset={website.charset}",
                    "Content-Security-Policy": POLICY.format(leads=leads),
                    **website.headers,
                }
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write((page or "").encode(website.charset))

            def log_message(self, *args: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), PageHandler)
        self.url = f"http://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. While Playwright runs, this thread can run no other event loop, hence the module's scope."""
    if CHROMIUM is None:
        pytest.skip("Chromium not found; install it, or set CHROMIUM to its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a new browser context, without cookies or storage."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(15_000)
    yield page
    context.close()


@pytest.fixture
def website(leads_sandbox: Sandbox) -> Iterator[Website]:
    """A website that is not registered yet; its page '/' has the form of the token 'oak'."""
    website = Website(leads_sandbox.url)
    website.pages["/"] = with_form(leads_sandbox)
    yield website
    website.stop()


@pytest.fixture
def registered(leads_sandbox: Sandbox, website: Website) -> Website:
    """The website, registered for a building with the token 'oak'."""
    leads_sandbox.register(
        token="oak", website_url=website.url, agent_email="agent@oak.test", time_zone="America/New_York"
    )
    return website


def with_form(sandbox: Sandbox, attributes: str = "", language: str = "en") -> str:
    """Return a page with the script of the form. attributes: more attributes of the script tag."""
    return f"""<!doctype html><html lang="{language}"><title>The Oak</title><main><h1>The Oak</h1>
<script src="{sandbox.url}/static/lead-form.js" data-token="oak" data-time-zone="America/New_York"
 data-units="2A, 4B" data-listing-source="zillow" {attributes} defer></script></main>"""


def serious_violations(page: Page) -> list[str]:
    """Return axe's serious and critical accessibility violations, each with the HTML of its nodes."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {[node['html'] for node in violation['nodes']]}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
    ]
