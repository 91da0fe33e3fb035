"""Generated tables: current, complete, and the version is the one of the changelog."""

import re
from pathlib import Path

import pytest
from server_process import ROOT, run
from tables import FILES, TABLE, TABLES, with_tables

from handlers.api.openapi import document
from handlers.api.validation import SCHEMA, TOUR_REQUEST
from models import settings
from models.version import VERSION

OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
INTEGRATING = (ROOT / "docs" / "integrating.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_generated_tables_are_current(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text == with_tables(text), f"a table in {file.name} is stale: run 'make docs'"


def test_each_generated_table_stands_in_a_document() -> None:
    found = [name for file in FILES for _, name, _ in TABLE.findall(file.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(TABLES)


def test_every_setting_is_in_the_operating_guide() -> None:
    for name in settings.setting_names():
        assert f"`LEADS_{name.upper()}`" in OPERATING


def test_every_command_is_in_the_operating_guide() -> None:
    for program in ("serve", "sandbox", "demo", "doctor", "openapi"):
        assert f"| `{program}` |" in OPERATING
    for noun in ("building", "token", "lead", "customer", "outbox", "backup", "config"):
        verbs = re.findall(r"^    ([\w-]+)(?:  |$)", run(noun, "--help").stdout, re.MULTILINE)
        assert verbs
        assert re.findall(rf"^\| `{noun} ([\w-]+)`", OPERATING, re.MULTILINE) == verbs


def test_every_field_and_status_is_in_the_integrating_guide() -> None:
    for name in (*(name for name in SCHEMA if name != "tour_request"), *TOUR_REQUEST):
        assert f"{name}` |" in INTEGRATING
    for status in document()["paths"]["/api/v1/website_leads"]["post"]["responses"]:
        assert f"| `{status}` |" in INTEGRATING


def test_every_link_between_documents_leads_to_a_file() -> None:
    for file in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "bench" / "README.md"):
        for target in re.findall(
            r"(?:\]\(|src(?:set)?=\")(?!https?:|#|/)([^)\"#]+)", file.read_text("utf-8")
        ):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_the_version_is_one_for_command_description_and_changelog() -> None:
    assert run("--version").stdout == f"leads {VERSION}\n"
    assert document()["info"]["version"] == VERSION
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.search(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert released is not None and released[1] == VERSION
