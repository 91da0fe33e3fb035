"""Static files: pages, styles, scripts and the lead form."""

from pathlib import Path

from tornado.web import StaticFileHandler

FOLDER = Path(__file__).parent.parent / "static"
# Only files of this server: every page works without internet.
POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"


class StaticFiles(StaticFileHandler):
    """GET of a folder's files, by their paths."""

    def initialize(self, folder: Path = FOLDER) -> None:  # type: ignore[override]
        super().initialize(str(folder))

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    def set_extra_headers(self, path: str) -> None:
        """Set the headers of each file; Tornado calls this."""
        self.set_header("Cache-Control", "no-cache")  # the browser revalidates, so an upgrade shows at once
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Content-Security-Policy", POLICY)


class StaticFile(StaticFiles):
    """GET of one file, on any route."""

    def initialize(self, name: str, folder: Path = FOLDER) -> None:  # type: ignore[override]
        super().initialize(folder)
        self._name = name

    async def get(self, path: str = "", include_body: bool = True) -> None:
        await super().get(self._name, include_body)

    async def head(self, path: str = "") -> None:
        await self.get(include_body=False)
