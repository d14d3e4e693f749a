"""GET /: the Workbench, a page of static files that uses the public routes as any other client does.

There is no build step: browsers get the files of `server/web` as they are.
"""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

WEB = Path(__file__).parents[3] / "web"


def page_headers(images: str, videos: str = "") -> dict[str, str]:
    """Return the headers of a page, which may show its own media and those of the schemes `images` and `videos`."""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": f"'self' {images}",
        "media-src": f"'self' {videos}".strip(),
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{directive} {source}" for directive, source in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        # revalidate each time, so that the page is never a mix of two versions
        "Cache-Control": "no-cache",
    }


# previews need a key in a header, so the page fetches them and shows them as blobs
HEADERS = page_headers(images="blob:", videos="blob:")

router = APIRouter(include_in_schema=False)


@router.get("/")
@router.head("/")
async def page() -> FileResponse:
    """Return the page. `?model=ID` selects the model, as on the hosted page."""
    return FileResponse(WEB / "index.html", headers=HEADERS)


@router.get("/ai/workbench")
@router.head("/ai/workbench")
async def hosted_address(request: Request) -> RedirectResponse:
    """Redirect from the hosted page's address, relatively: the page's own links are relative to its folder."""
    query = request.scope["query_string"].decode("latin-1")
    return RedirectResponse(f"../?{query}" if query else "../", headers=HEADERS)


@router.get("/favicon.ico")
async def icon() -> FileResponse:
    """Return the icon that browsers request for what is not a page, such as a video."""
    return FileResponse(WEB / "favicon.ico", headers=HEADERS, media_type="image/x-icon")


class PageFiles(StaticFiles):
    """Static files with the same headers as the page."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Return a file, or 304 if it has not changed."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


def page_files() -> ASGIApp:
    """Return the application to mount at /web. It compresses for clients that ask for it: a phone loads a third."""
    return GZipMiddleware(PageFiles(directory=WEB), minimum_size=1024)
