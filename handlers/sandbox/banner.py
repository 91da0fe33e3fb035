"""Banners of the sandbox: the texts that `sandbox` and `demo` print once they have started."""

import sys
from pathlib import Path

from handlers.api.leads import PATH
from handlers.sandbox.database import DEMO_TOKEN, DEMO_WEBSITES

# The command that started this program, so that a command in the banner can be copied and run.
PROGRAM = sys.executable if getattr(sys, "frozen", False) else ".venv/bin/python server.py"
SAMPLE_LEAD = """{"token": "demo", "tour_request": {
  "requestor_name": "Jane Doe", "requestor_email": "jane@example.com", "requestor_phone": "(555) 123-4567",
  "message": "Is 4B still free?", "unit_preference": "4B", "slot": "2026-12-01T10:00",
  "listing_source": "june_homes", "utm_data": "utm_source=newsletter", "sms_consent": "true"}}"""


def greeting(url: str, data_dir: Path) -> str:
    """Return the line that `sandbox` prints, for programs to parse: the URL comes after 'Sandbox at'."""
    return f"Sandbox at {url} (token {DEMO_TOKEN}; watch it at {url}/sandbox; data in {data_dir})"


def banner(url: str, data_dir: Path) -> str:
    """Return the text that `demo` prints for people: the addresses, the token, and a lead to send."""
    leads_url = url + PATH
    return f"""
  Website leads, a sandbox. Nothing leaves this machine. Stop it with Ctrl-C, and its data is deleted.

  watch it at     {url}/sandbox
  POST leads to   {leads_url}
  building token  {DEMO_TOKEN}
  from a page at  {DEMO_WEBSITES[0]}
  look inside     {PROGRAM} lead list --data-dir {data_dir}
  health          {url}/livez  {url}/readyz

  Send one from another terminal:

curl -sS {leads_url} -H 'Content-Type: application/json' -d '{SAMPLE_LEAD}'

  Every message that it causes is listed here:
"""
