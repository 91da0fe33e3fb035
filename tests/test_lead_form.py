"""The form in a real browser, on a page of another origin, under a strict Content-Security-Policy."""

import gzip
from typing import Any

import pytest
from browsing import Website, serious_violations, with_form
from leads_sandbox import Sandbox
from playwright.sync_api import Page, expect
from server_process import ROOT

FORM = ROOT / "static" / "lead-form.js"


def fill_in_email(page: Page) -> None:
    page.get_by_label("E-mail").fill("jane@renter.test")


def send(page: Page) -> None:
    page.get_by_role("button", name="Send").click()


def expect_success(page: Page, seconds: float = 15) -> None:
    expect(page.get_by_role("status")).to_have_text(
        "Thank you! We will be in touch soon.", timeout=1_000 * seconds
    )


def test_script_is_under_8_kb_compressed() -> None:
    assert len(gzip.compress(FORM.read_bytes())) < 8_000


def test_keyboard_alone_submits_a_lead_that_is_mailed(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    page.goto(registered.url + "/?utm_source=news&x=1")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    keyboard = page.keyboard
    for text in ("Jane Doe", "jane@renter.test", "(555) 123-4567"):
        keyboard.press("Tab")
        keyboard.type(text)
    keyboard.press("Tab")  # unit
    keyboard.type("4B")
    keyboard.press("Tab")  # day
    keyboard.press("ArrowDown")
    keyboard.press("Tab")  # time
    keyboard.press("ArrowDown")
    keyboard.press("Tab")
    keyboard.type("Is it still free?")
    keyboard.press("Tab")  # consent
    keyboard.press("Space")
    keyboard.press("Tab")
    keyboard.press("Enter")
    expect_success(page)
    mail = leads_sandbox.mails.one()
    assert mail["to"] == ["agent@oak.test"] and mail["subject"].startswith("New lead: Jane Doe for unit 4B")
    (lead,) = leads_sandbox.leads.all()
    assert lead["requestor_phone"] == "(555) 123-4567" and lead["message"] == "Is it still free?"
    assert lead["utm_data"] == {"utm_source": "news"} and lead["listing_source"] == "zillow"
    assert lead["sms_consent"] is True and lead["slot"] is not None
    assert lead["request_host"] == registered.url.removeprefix("http://")
    assert leads_sandbox.diagnosis().keys() == {"slot-without-offset"}


def test_unregistered_origin_is_refused_and_named_in_the_diagnosis(
    leads_sandbox: Sandbox, website: Website, page: Page
) -> None:
    page.goto(website.url)
    fill_in_email(page)
    page.clock.install()
    send(page)
    leads_sandbox.requests.one(status=403)
    assert website.url in leads_sandbox.requests.all(status=403)[0]["diagnosis"][0]["says"]
    assert leads_sandbox.leads.all() == []


@pytest.mark.parametrize("what", [429, 503, "cut"])
def test_retries_until_the_server_recovers_create_one_lead(
    leads_sandbox: Sandbox, registered: Website, page: Page, what: int | str
) -> None:
    leads_sandbox.faults.next("api", what, times=2, seconds=1)
    page.goto(registered.url)
    fill_in_email(page)
    send(page)
    expect_success(page)
    assert len(leads_sandbox.leads.all()) == 1


def test_double_click_creates_one_lead(leads_sandbox: Sandbox, registered: Website, page: Page) -> None:
    leads_sandbox.faults.next("api", "slow", seconds=0.3)
    page.goto(registered.url)
    fill_in_email(page)
    page.get_by_role("button", name="Send").dblclick()
    expect_success(page)
    assert len(leads_sandbox.leads.all()) == 1


def test_typed_values_survive_a_reload_and_a_network_failure(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    page.goto(registered.url)
    page.get_by_label("Message", exact=True).fill("Is it still free?")
    fill_in_email(page)
    page.reload()
    expect(page.get_by_label("Message", exact=True)).to_have_value("Is it still free?")
    page.context.set_offline(True)
    send(page)
    expect(page.get_by_role("status")).to_contain_text("Trying again")
    expect(page.get_by_label("Message", exact=True)).to_have_value("Is it still free?")
    page.context.set_offline(False)
    expect_success(page)
    assert [lead["message"] for lead in leads_sandbox.leads.all()] == ["Is it still free?"]


def test_invalid_email_is_reported_at_its_field(registered: Website, page: Page) -> None:
    page.goto(registered.url)
    page.get_by_label("E-mail").fill("jane")
    send(page)
    field = page.get_by_label("E-mail")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    expect(page.get_by_text("Please enter an e-mail address.")).to_be_visible()


def test_utm_data_and_referrer_are_kept_across_pages(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    registered.pages["/units"] = with_form(leads_sandbox)
    page.goto(registered.url + "/?utm_campaign=spring", referer="https://search.test/")
    page.goto(registered.url + "/units", referer=registered.url + "/")
    fill_in_email(page)
    send(page)
    expect_success(page)
    assert leads_sandbox.leads.all()[0]["utm_data"] == {
        "utm_campaign": "spring",
        "referrer": "https://search.test/",
    }


def test_form_uses_the_language_of_the_page(leads_sandbox: Sandbox, registered: Website, page: Page) -> None:
    registered.pages["/es"] = with_form(leads_sandbox, language="es-MX")
    page.goto(registered.url + "/es")
    page.get_by_label("Correo electrónico").fill("jane@renter.test")
    page.get_by_role("button", name="Enviar").click()
    expect(page.get_by_role("status")).to_have_text("¡Gracias! Nos pondremos en contacto pronto.")


def test_two_forms_on_a_page_define_no_globals(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    registered.pages["/blank"] = "<!doctype html><title>blank</title>"
    page.goto(registered.url + "/blank")
    globals_before = set(page.evaluate("Object.getOwnPropertyNames(window)"))
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    registered.pages["/two"] = with_form(leads_sandbox) + with_form(leads_sandbox, 'data-fields="message"')
    page.goto(registered.url + "/two")
    expect(page.get_by_role("button", name="Send")).to_have_count(2)
    assert errors == [] and set(page.evaluate("Object.getOwnPropertyNames(window)")) <= globals_before


def test_script_in_the_head_adds_the_form_to_the_body(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    script = f'<script src="{leads_sandbox.url}/static/lead-form.js" data-token="oak" defer></script>'
    registered.pages["/head"] = f"<!doctype html><html lang=en><head>{script}</head><body><h1>The Oak</h1>"
    page.goto(registered.url + "/head")
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_overlong_utm_data_is_shortened_before_sending(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    page.goto(registered.url + "/?utm_source=news&utm_content=" + "x" * 10_001)
    fill_in_email(page)
    send(page)
    expect_success(page)
    assert leads_sandbox.leads.all()[0]["utm_data"] == {"utm_source": "news"}


def test_non_ascii_email_address_is_accepted(leads_sandbox: Sandbox, registered: Website, page: Page) -> None:
    page.goto(registered.url)
    page.get_by_label("E-mail").fill("jörg@renter.test")
    send(page)
    expect_success(page)
    assert leads_sandbox.leads.all()[0]["requestor_email"] == "jörg@renter.test"


def test_consent_is_not_restored_after_a_reload(registered: Website, page: Page) -> None:
    page.goto(registered.url)
    fill_in_email(page)
    page.get_by_role("checkbox").check()
    page.reload()
    expect(page.get_by_label("E-mail")).to_have_value("jane@renter.test")
    expect(page.get_by_role("checkbox")).not_to_be_checked()


def test_fields_are_inert_while_the_form_is_sent(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    leads_sandbox.faults.next("api", 503, seconds=1)
    page.goto(registered.url)
    fill_in_email(page)
    send(page)
    expect(page.get_by_role("status")).to_contain_text("Trying again")
    page.locator("lead-form textarea").evaluate("(field) => field.focus()")
    page.keyboard.type("too late")
    expect(page.locator("lead-form textarea")).to_have_value("")
    expect_success(page)


@pytest.mark.parametrize(
    "attributes", ['data-time-zone="Mars/Olympus"', 'data-slot-hours="9am-6pm"', 'data-slot-hours="9-99"']
)
def test_invalid_attribute_leaves_a_working_form(
    leads_sandbox: Sandbox, registered: Website, page: Page, attributes: str
) -> None:
    script = (
        f'<script src="{leads_sandbox.url}/static/lead-form.js" data-token="oak" {attributes} defer></script>'
    )
    registered.pages["/odd"] = f"<!doctype html><html lang=en><title>odd</title><main>{script}</main>"
    page.goto(registered.url + "/odd")
    fill_in_email(page)
    page.get_by_label("Day").select_option(index=1)
    page.get_by_label("Time").select_option(index=0)
    send(page)
    expect_success(page)
    assert leads_sandbox.leads.all()[0]["slot"] is not None


def test_only_a_form_sent_too_fast_is_quarantined(
    leads_sandbox: Sandbox, website: Website, page: Page
) -> None:
    leads_sandbox.register(
        token="oak", website_url=website.url, agent_email="agent@oak.test", spam_defence="hold"
    )
    page.clock.install()
    for seconds, state in ((1, "quarantined"), (5, "delivered")):
        page.goto(website.url)
        fill_in_email(page)
        page.clock.fast_forward(1_000 * seconds)
        send(page)
        expect_success(page)
        lead = leads_sandbox.leads.all()[-1]["id"]
        assert leads_sandbox.delivery(lead, attempts=int(state == "delivered"))["state"] == state


def test_consent_evidence_has_the_version_of_the_text(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    registered.pages["/own"] = with_form(leads_sandbox, 'data-sms-text="Text me." data-sms-version="2026-11"')
    page.goto(registered.url + "/own")
    fill_in_email(page)
    page.get_by_role("checkbox", name="Text me.").check()
    send(page)
    expect_success(page)
    stored = leads_sandbox.call("GET", f"requests/{leads_sandbox.requests.one(status=201)['number']}")[
        "stored"
    ]
    assert stored["sms_consent_evidence"]["version"] == "2026-11"


def test_fields_attribute_selects_the_fields(leads_sandbox: Sandbox, registered: Website, page: Page) -> None:
    registered.pages["/short"] = with_form(leads_sandbox, 'data-fields="message"')
    page.goto(registered.url + "/short")
    expect(page.locator("lead-form [part=field]")).to_have_count(2)  # the e-mail field is always shown


def test_slots_are_days_in_the_buildings_time_zone(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    page.clock.install(time="2026-12-01T03:00:00Z")  # still November in New York
    page.goto(registered.url)
    days = page.get_by_label("Day").locator("option")
    expect(days.nth(1)).to_have_attribute("value", "2026-12-01")
    expect(days.nth(1)).to_have_text("Tue, Dec 1")
    expect(page.get_by_text("Times are the building's own (New York).")).to_be_visible()


def test_form_dispatches_events_to_the_page(leads_sandbox: Sandbox, registered: Website, page: Page) -> None:
    leads_sandbox.faults.next("api", 503)
    page.add_init_script(
        "window.events = [];"
        "for (const name of ['view', 'start', 'submit', 'retry', 'success', 'error'])"
        " document.addEventListener(`lead-form:${name}`, ({detail}) => events.push([name, detail]));"
    )
    page.goto(registered.url)
    fill_in_email(page)
    send(page)
    expect_success(page)
    events: list[Any] = page.evaluate("events")
    assert [name for name, _ in events] == ["view", "start", "submit", "retry", "success"]
    assert events[-1][1] == {"id": leads_sandbox.leads.all()[0]["id"]}


def test_form_works_under_a_strict_content_security_policy(registered: Website, page: Page) -> None:
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(registered.url)
    expect(page.get_by_role("button", name="Send")).to_have_css("background-color", "rgb(11, 87, 208)")
    assert errors == []


PLAIN = """<!doctype html><html lang="en"><title>The Oak</title>
<form action="{leads}" method="post">
<input type="hidden" name="token" value="oak">{more}
<label>E-mail <input name="tour_request[requestor_email]" type="email"></label>
<button>Send</button></form>"""


def test_C27a_plain_form_leads_to_the_thank_you_page(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    registered.pages["/plain"] = PLAIN.format(leads=leads_sandbox.leads_url, more="")
    page.goto(registered.url + "/plain")
    fill_in_email(page)
    send(page)
    expect(page.get_by_role("heading", name="Thank you!")).to_be_visible()
    assert leads_sandbox.mails.one()["to"] == ["agent@oak.test"]
    assert serious_violations(page) == []


def test_C27a_plain_form_redirects_to_its_own_origin(
    leads_sandbox: Sandbox, registered: Website, page: Page
) -> None:
    more = f'<input type="hidden" name="return_to" value="{registered.url}/thanks">'
    registered.pages["/plain"] = PLAIN.format(leads=leads_sandbox.leads_url, more=more)
    registered.pages["/thanks"] = "<title>Thanks</title><h1>See you</h1>"
    page.goto(registered.url + "/plain")
    fill_in_email(page)
    send(page)
    expect(page.get_by_role("heading", name="See you")).to_be_visible()
    assert len(leads_sandbox.leads.all()) == 1


def test_form_has_no_serious_accessibility_violations(registered: Website, page: Page) -> None:
    page.goto(registered.url)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert serious_violations(page) == []
    page.get_by_label("E-mail").fill("jane")
    send(page)
    assert serious_violations(page) == []


def test_sandbox_page_shows_requests_as_they_arrive(leads_sandbox: Sandbox, page: Page) -> None:
    leads_sandbox.add_website("http://localhost:5173")
    page.goto(leads_sandbox.url + "/sandbox")
    expect(page.get_by_text("Nothing has come yet")).to_be_visible()
    websites = "from pages at http://localhost:3000, http://localhost:5173"
    expect(page.locator("#facts")).to_contain_text(websites)
    leads_sandbox.post({"token": "demon", "tour_request": {"requestor_email": "jane@renter.test"}})
    expect(page.locator("#detail .diagnosis")).to_contain_text("'demon' belongs to no building")
    leads_sandbox.lead(requestor_name="Jane Doe", slot="2026-12-01T10:00Z")
    leads_sandbox.mails.wait()
    page.get_by_role("button", name="201").first.click()
    expect(page.frame_locator("iframe").get_by_text("Jane Doe").first).to_be_visible()
    expect(page.locator("#detail")).to_contain_text('"requestor_name": "Jane Doe"')
    assert serious_violations(page) == []
