"""The API reference in a real browser: its samples for pages, and their buttons."""

from browsing import Website, serious_violations
from leads_sandbox import Sandbox
from playwright.sync_api import Page, expect

from handlers.docs import SAMPLES, filled

SAMPLE = {sample.file: sample for sample in SAMPLES}


def test_javascript_sample_sends_a_lead(leads_sandbox: Sandbox, registered: Website, page: Page) -> None:
    registered.pages["/blank"] = "<!doctype html><title>blank</title>"
    page.goto(registered.url + "/blank")
    with page.expect_console_message() as message:
        page.evaluate(filled(SAMPLE["fetch.js"], leads_sandbox.url, "oak"))
    assert message.value.text == f"lead {leads_sandbox.leads.all()[0]['id']}"


def test_form_sample_sends_a_lead(leads_sandbox: Sandbox, registered: Website, page: Page) -> None:
    form = filled(SAMPLE["form.html"], leads_sandbox.url, "oak")
    registered.pages["/plain"] = f"<!doctype html><html lang='en'><title>form</title>{form}"
    page.goto(registered.url + "/plain")
    page.get_by_label("E-mail").fill("jane@example.com")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("heading", name="Thank you!")).to_be_visible()
    assert leads_sandbox.leads.all()[0]["building_id"] != 1


def test_buttons_of_a_sample_run_and_copy_it(leads_sandbox: Sandbox, page: Page) -> None:
    page.goto(leads_sandbox.url + "/docs")
    assert serious_violations(page) == []
    for number, sample in enumerate(SAMPLES):
        section = page.get_by_label(sample.name, exact=True)
        section.get_by_role("button", name="Run").click()
        expect(section.locator("output")).to_contain_text('201 {"id": ')
        assert len(leads_sandbox.leads.all()) == number + 1
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_label("curl").get_by_role("button", name="Copy").click()
    expect(page.get_by_label("curl").get_by_role("button", name="Copied")).to_be_visible()
    copied: str = page.evaluate("navigator.clipboard.readText()")
    assert copied == filled(SAMPLE["curl.sh"], leads_sandbox.url, "demo")
