"""Plain forms in a real browser: whatever a page hides or declares, the lead arrives whole (C5, C27)."""

from typing import Any

import pytest
from browsing import Website
from leads_sandbox import Sandbox
from playwright.sync_api import Page, expect

TEXT = "José’s “flat” – Łódź, Ещё, 部屋 🏠"


def form(sandbox: Sandbox, *, fields: str = "", attributes: str = "", head: str = "") -> str:
    """Return a page with a plain form to the sandbox. fields: more inputs; attributes: of the form."""
    return f"""<!doctype html><title>The Oak</title>{head}<h1>The Oak</h1>
<form action="{sandbox.url}/api/v1/website_leads" method="post" {attributes}>
<input type="hidden" name="token" value="oak">
<input name="tour_request[requestor_name]">
<input name="tour_request[requestor_email]" type="email" required>
<textarea name="tour_request[message]"></textarea>
{fields}<button>Send</button></form>"""


def send(page: Page, name: str = "Jane Doe", email: str = "jane@renter.test", message: str = "Hi") -> None:
    page.fill("[name='tour_request[requestor_name]']", name)
    page.fill("[name='tour_request[requestor_email]']", email)
    page.fill("[name='tour_request[message]']", message)
    page.click("button")


def the_lead(sandbox: Sandbox) -> dict[str, Any]:
    """Return the only lead with all that is stored of it."""
    [lead] = sandbox.leads.all()
    return lead


@pytest.mark.parametrize("policy", ["no-referrer", "same-origin", "strict-origin-when-cross-origin"])
def test_C27_a_referrer_policy_costs_no_lead(
    leads_sandbox: Sandbox, registered: Website, page: Page, policy: str
) -> None:
    registered.headers["Referrer-Policy"] = policy
    registered.pages["/form"] = form(leads_sandbox)
    page.goto(registered.url + "/form")
    send(page)
    expect(page.get_by_role("heading")).to_have_text("Thank you!")
    assert leads_sandbox.mails.one()["to"] == ["agent@oak.test"]


def test_C27_a_form_on_an_unregistered_origin_is_taken(
    leads_sandbox: Sandbox, website: Website, page: Page
) -> None:
    leads_sandbox.register(token="oak", website_urls=["https://oak.test"], agent_email="agent@oak.test")
    website.pages["/form"] = form(leads_sandbox)
    page.goto(website.url + "/form")
    send(page)
    expect(page.get_by_role("heading")).to_have_text("Thank you!")
    expect(page.get_by_role("link")).to_have_attribute("href", "https://oak.test")
    assert leads_sandbox.mails.one()["to"] == ["agent@oak.test"]


def test_C27_a_page_can_not_send_leads_through_its_visitors_unseen(
    leads_sandbox: Sandbox, website: Website, page: Page
) -> None:
    leads_sandbox.register(token="oak", website_urls=["https://oak.test"], agent_email="agent@oak.test")
    website.headers["Content-Security-Policy"] = "default-src 'unsafe-inline' *"
    hidden = '<input type="hidden" name="tour_request[sms_consent]" value="true">'
    website.pages["/evil"] = (
        form(leads_sandbox, fields=hidden)
        .replace("<button", "<p")
        .replace(
            "</form>",
            """</form><script>const form = document.forms[0];
        form.elements[2].value = 'victim@renter.test'; form.submit()</script>""",
        )
    )
    page.goto(website.url + "/evil")
    expect(page.get_by_role("heading")).to_have_text("Thank you!")
    lead = the_lead(leads_sandbox)
    assert lead["deliveries"][0]["state"] == "quarantined" and not lead["sms_consent"]
    assert leads_sandbox.mails.all() == []


def test_C27a_a_reload_of_the_thank_you_page_sends_nothing(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    registered.pages["/form"] = form(leads_sandbox)
    page.goto(registered.url + "/form")
    send(page)
    expect(page.get_by_role("heading")).to_have_text("Thank you!")
    page.reload()
    expect(page.get_by_role("heading")).to_have_text("Thank you!")
    assert len(leads_sandbox.leads.all()) == 1
    assert "jane" not in page.url.lower()


def test_C27a_a_framed_form_shows_its_thanks(leads_sandbox: Sandbox, registered: Website, page: Page) -> None:
    registered.headers["Content-Security-Policy"] = (
        "default-src 'self' 'unsafe-inline'; frame-src *; form-action *"
    )
    registered.pages["/form"] = form(leads_sandbox)
    registered.pages["/"] = (
        '<!doctype html><title>Oak</title><iframe src="/form" width="600" height="600"></iframe>'
    )
    page.goto(registered.url)
    frame = page.frame_locator("iframe")
    frame.locator("[name='tour_request[requestor_email]']").fill("jane@renter.test")
    frame.locator("button").click()
    expect(frame.get_by_role("heading")).to_have_text("Thank you!")
    assert leads_sandbox.mails.one()["to"] == ["agent@oak.test"]


def test_C27a_a_form_with_a_hidden_frame_as_target_is_taken(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    registered.headers["Content-Security-Policy"] = (
        "default-src 'self' 'unsafe-inline'; frame-src *; form-action *"
    )
    registered.pages["/form"] = (
        form(leads_sandbox, attributes='target="sink"') + '<iframe name="sink"></iframe>'
    )
    page.goto(registered.url + "/form")
    send(page)
    expect(page.frame_locator("iframe").get_by_role("heading")).to_have_text("Thank you!")
    assert leads_sandbox.mails.one()["to"] == ["agent@oak.test"]


def test_C27a_a_refused_form_tells_the_renter_what_to_mend(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    registered.pages["/form"] = form(leads_sandbox, fields='<input name="tour_request[slot]" value="soon">')
    page.goto(registered.url + "/form")
    send(page)
    expect(page.get_by_role("heading")).to_have_text("That could not be sent.")
    expect(page.get_by_text("Please check the date and time of the tour.")).to_be_visible()
    page.go_back()
    expect(page.locator("textarea")).to_have_value("Hi")


@pytest.mark.parametrize(
    ("charset", "declares_charset"),
    [
        *(("windows-1252", declares) for declares in (True, False)),
        *(("iso-8859-1", declares) for declares in (True, False)),
        *(("utf-8", declares) for declares in (True, False)),
        ("windows-1251", True),
    ],
)
@pytest.mark.parametrize("attributes", ["", 'enctype="multipart/form-data"'])
def test_C5_accents_arrive_whole_from_a_page_in_any_charset(
    leads_sandbox: Sandbox,
    registered: Website,
    page: Page,
    charset: str,
    declares_charset: bool,
    attributes: str,
) -> None:
    declared = '<input type="hidden" name="_charset_">' if declares_charset else ""
    name = "Иван Петров" if charset == "windows-1251" else "José Ünal"
    registered.charset = charset
    registered.pages["/form"] = form(leads_sandbox, fields=declared, attributes=attributes)
    page.goto(registered.url + "/form")
    send(page, name=name, message="Línea – 1" if charset == "utf-8" else "Hi")
    expect(page.get_by_role("heading")).to_have_text("Thank you!")
    assert the_lead(leads_sandbox)["requestor_name"] == name


@pytest.mark.parametrize("enctype", ["application/x-www-form-urlencoded", "multipart/form-data"])
@pytest.mark.parametrize(
    ("charset", "has_charset_field"),
    [(charset, True) for charset in ("utf-8", "iso-8859-1", "windows-1251", "shift_jis", "gbk", "utf-16")]
    + [(charset, False) for charset in ("utf-8", "iso-8859-1", "utf-16")],
)
def test_C5_form_arrives_whole_in_any_charset(
    leads_sandbox: Sandbox,
    registered: Website,
    page: Page,
    charset: str,
    has_charset_field: bool,
    enctype: str,
) -> None:
    field = '<input type="hidden" name="_charset_">' if has_charset_field else ""
    registered.pages["/"] = f"""<!doctype html><title>The Oak</title>
        <form action="{leads_sandbox.url}/api/v1/website_leads?token=oak" method="post" enctype="{enctype}"
              accept-charset="{charset}">{field}
        <input type="email" name="tour_request[requestor_email]" value="jane@renter.test">
        <input name="tour_request[message]"><input name="téléphone"><button>Send</button></form>"""
    page.goto(registered.url)
    page.locator("[name='tour_request[message]']").fill(TEXT)
    with page.expect_navigation():
        page.get_by_role("button", name="Send").click()
    lead = leads_sandbox.leads.one()
    assert lead["message"] == TEXT
    assert lead["building_id"] is not None


def test_C16_a_message_of_many_lines_fits(leads_sandbox: Sandbox, registered: Website, page: Page) -> None:
    registered.pages["/form"] = form(leads_sandbox)
    page.goto(registered.url + "/form")
    message = "line\n" * 1_999 + "end"  # a browser sends each line break as two characters
    page.evaluate("text => { document.querySelector('textarea').value = text; }", message)
    page.fill("[name='tour_request[requestor_email]']", "jane@renter.test")
    page.click("button")
    expect(page.get_by_role("heading")).to_have_text("Thank you!")
    assert the_lead(leads_sandbox)["message"] == message


def test_C26_a_tracing_script_costs_no_lead(leads_sandbox: Sandbox, registered: Website, page: Page) -> None:
    page.goto(registered.url)
    status = page.evaluate(
        """url => fetch(url, {method: "POST", headers: {"Content-Type": "application/json", baggage: "a=b",
             traceparent: "00-1-2-01"},
             body: JSON.stringify({token: "oak", tour_request: {requestor_email: "jane@renter.test"}})})
             .then(response => response.status)""",
        leads_sandbox.url + "/api/v1/website_leads",
    )
    assert status == 201


def test_C25_scripts_on_both_websites_of_a_building_send(
    leads_sandbox: Sandbox, website: Website, page: Page
) -> None:
    apex = website.url
    www = apex.replace("localhost", "127.0.0.1")  # another origin of the same page
    leads_sandbox.register(token="oak", website_urls=[apex, www], agent_email="agent@oak.test")
    for url in (apex, www):
        page.goto(url)
        page.get_by_label("E-mail").fill("jane@renter.test")
        page.get_by_role("button").click()
        expect(page.get_by_role("status")).to_have_text("Thank you! We will be in touch soon.")
    assert [lead["website"] for lead in leads_sandbox.leads.all()] == [
        url.partition("//")[2] for url in (apex, www)
    ]
