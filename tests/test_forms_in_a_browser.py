"""Forms of pages in older charsets, as a real browser sends them (C5)."""

import pytest
from browsing import Website
from leads_sandbox import Sandbox
from playwright.sync_api import Page

TEXT = "José’s “flat” – Łódź, Ещё, 部屋 🏠"


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
