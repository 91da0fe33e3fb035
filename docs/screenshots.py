"""Take the pictures of `docs/images/`, of a sandbox with a few leads in it: `make screenshots`."""

from pathlib import Path

from browsing import CHROMIUM
from leads_sandbox import Sandbox
from playwright.sync_api import Browser, sync_playwright
from server_process import started

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1280, "height": 800}  # pixels
PORT = "8080"  # it stands in the pictures, and must be free
FILES = {"light": "sandbox.png", "dark": "sandbox-dark.png"}  # by the colour scheme


def fill(sandbox: Sandbox) -> None:
    """Send leads as they come in on a day: taken, refused, and one whose token is wrong."""
    first = sandbox.lead(requestor_name="Sam Rivera", requestor_email="sam@example.com")
    sandbox.mails.one(lead=first)
    sandbox.post(
        {"token": "demo", "tour_request": {"requestor_email": "ann@example.com", "slot": "tomorrow"}}
    )
    sandbox.post({"token": "demon", "tour_request": {"requestor_email": "ann@example.com"}})
    lead = sandbox.lead(
        requestor_name="Jane Doe",
        requestor_email="jane@example.com",
        requestor_phone="(212) 555-0142",
        unit_preference="4B",
        slot="2026-12-01T10:00",
        message="Hello, is 4B still free? I would like to see it on Tuesday.",
        listing_source="june_homes",
    )
    sandbox.mails.one(lead=lead)
    sandbox.partner_calls.one(lead=lead)


def take(browser: Browser, url: str, scheme: str, file: Path) -> None:
    """Save a picture of the sandbox, with the mail of the newest lead in view. scheme: light or dark."""
    page = browser.new_page(viewport=SIZE, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(f"{url}/sandbox")
    page.frame_locator("iframe").first.get_by_text("Jane Doe").first.wait_for()
    page.locator("iframe").first.evaluate("mail => (mail.closest('section') ?? mail).scrollIntoView()")
    page.screenshot(path=file)
    page.close()


def main() -> None:
    """Take every picture."""
    IMAGES.mkdir(exist_ok=True)
    with started("sandbox", port=PORT) as server, sync_playwright() as playwright:
        fill(Sandbox(server.url))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme, file in FILES.items():
            take(browser, server.url, scheme, IMAGES / file)
        browser.close()


if __name__ == "__main__":
    main()
