"""Static files: pages, styles, scripts and the lead form."""

from pathlib import Path

from tornado.web import HTTPError, StaticFileHandler

from handlers.base import Handler
from handlers.errors import ApiError

FOLDER = Path(__file__).parent.parent / "static"
# Only files of this server: every page works without internet.
POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"


class StaticFiles(Handler, StaticFileHandler):
    """GET of a folder's files, by their paths."""

    route = "/static"
    compute_etag = StaticFileHandler.compute_etag

    def initialize(self, folder: Path = FOLDER) -> None:  # type: ignore[override]
        super().initialize(str(folder))

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        """Return the path of a file in the folder; Tornado calls this. Raises HTTPError for another one."""
        try:
            return super().validate_absolute_path(root, absolute_path)
        except ValueError:  # a NUL, or a character that the system's names of files can't have
            raise HTTPError(404) from None

    async def get(self, path: str, include_body: bool = True) -> None:
        await super().get(path, include_body)
        if self.get_status() == 416:  # Tornado's answer has no body
            raise ApiError(416, "the file has no such range", Content_Range=self._headers["Content-Range"])

    def set_extra_headers(self, path: str) -> None:
        """Set the headers of each file; Tornado calls this."""
        self.set_header("Cache-Control", "no-cache")  # the browser revalidates, so an upgrade shows at once
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
