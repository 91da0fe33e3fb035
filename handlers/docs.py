"""Pages for integrators: the API reference with its samples, and the OpenAPI document."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tornado.template import Loader

from handlers.api.leads import PATH
from handlers.api.openapi import document
from handlers.api.validation import SCHEMA, TOUR_REQUEST
from handlers.base import Handler
from handlers.errors import THROTTLED
from handlers.static import POLICY

HERE = Path(__file__).parent
SAMPLE_URL, SAMPLE_TOKEN = "http://127.0.0.1:8080", "demo"  # replaced in the samples
NO_TOKEN = "YOUR-TOKEN"
PAGES_KEPT = 4  # in memory; without a public URL the client's Host makes a page of its own

_PAGE = Loader(str(HERE / "templates")).load("docs.html")


class Sample(NamedTuple):
    """A code sample. name: its title in the page; media_type: of the body that it sends."""

    file: str
    name: str
    text: str
    media_type: str = "application/json"


def _sample(file: str, name: str, **others: str) -> Sample:
    return Sample(file, name, (HERE / "samples" / file).read_text(encoding="utf-8"), **others)


SAMPLES: Sequence[Sample] = (
    _sample("curl.sh", "curl"),
    _sample("fetch.js", "fetch, in a page"),
    _sample("form.html", "HTML form", media_type="application/x-www-form-urlencoded"),
    _sample("python.py", "Python"),
    _sample("node.mjs", "Node"),
    _sample("php.php", "PHP"),
    _sample("ruby.rb", "Ruby"),
)


def filled(sample: Sample, url: str, token: str) -> str:
    """Return the sample's text with this server's URL and this building token."""
    text = sample.text.replace(SAMPLE_URL, url)
    for written in ('"token": "{}"', 'token: "{}"', '"token" => "{}"', 'name="token" value="{}"'):
        text = text.replace(written.format(SAMPLE_TOKEN), written.format(token))
    return text


class Docs(Handler):
    """GET /docs: the API reference, with the server's own URL in its samples."""

    route = "/docs"

    def initialize(self, public_url: str, token: str | None = None) -> None:
        """token: of a building for test leads, with which the page can run its samples; None for none."""
        self._public_url, self._token = public_url, token

    def get(self) -> None:
        url = self._public_url or self.own_url()
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", POLICY)
        self.finish(_page(url, self._token))


@functools.lru_cache(PAGES_KEPT)  # a page takes ten times as long to make as to send
def _page(url: str, token: str | None) -> bytes:
    shown = token or NO_TOKEN
    return _PAGE.generate(
        url=url,
        token=shown,
        can_run=token is not None,
        samples=[(sample, filled(sample, url, shown)) for sample in SAMPLES],
        fields=field_rows(),
        answers=answer_rows(),
    )


def field_rows() -> list[tuple[str, str, str]]:
    """Return name, meaning and limit of each field of a request."""
    top = [(name, rules) for name, rules in SCHEMA.items() if rules["type"] != "dict"]
    inner = [(f"tour_request.{name}", rules) for name, rules in TOUR_REQUEST.items()]
    return [(name, rules["meta"]["description"], _limit(rules)) for name, rules in (*top, *inner)]


def _limit(rules: dict[str, object]) -> str:
    if "allowed" in rules:
        return ", ".join(map(str, rules["allowed"]))  # type: ignore[call-overload]
    required = "required; " if rules.get("required") else ""
    return f"{required}at most {rules['maxlength']:,} characters"


def answer_rows() -> list[tuple[str, str, str]]:
    """Return status, example body and meaning of each answer to a lead."""
    responses = document()["paths"][PATH]["post"]["responses"]
    return [(status, _example(status), response["description"]) for status, response in responses.items()]


def _example(status: str) -> str:
    if status == "429":
        return f'{{"error": {json.dumps(THROTTLED)}}}'
    return {"200": '{"dry_run": true}', "201": '{"id": 1}', "303": ""}.get(status, '{"error": "…"}')


class OpenApi(Handler):
    """GET /openapi.json: the OpenAPI document, with the server's own URL."""

    route = "/openapi.json"

    def initialize(self, public_url: str) -> None:
        self._public_url = public_url

    def get(self) -> None:
        # The document is public, and some tools that read it run in a browser.
        self.set_header("Access-Control-Allow-Origin", "*")
        self.finish(_document(self._public_url or self.own_url()))


@functools.lru_cache(PAGES_KEPT)
def _document(url: str) -> str:
    return json.dumps(document(url), ensure_ascii=False)
