"""GET /: the Workbench, a page of plain files that talks to the public routes as any other client does.

There is no build step: what lies in `server/web` is what the browser gets.
"""

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

WEB = Path(__file__).parents[2] / "web"

# previews come with a key in a header, so that the page holds them as blobs
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob:",
    "media-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Content-Security-Policy": "; ".join(f"{what} {source}" for what, source in _POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # looked at again each time, so that a new version of the server never meets half of an old page
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
@router.head("/")
@router.get("/ai/workbench")
@router.head("/ai/workbench")
async def page() -> FileResponse:
    """The page; `?model=ID` chooses the model, as the hosted one's address does."""
    return FileResponse(WEB / "index.html", headers=HEADERS)


class PageFiles(StaticFiles):
    """The files beside the page, under the same policy."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Answer with a file, or that it has not changed."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


def page_files() -> PageFiles:
    """To be mounted at /web."""
    return PageFiles(directory=WEB)
