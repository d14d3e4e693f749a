"""GET /openapi.json, the description of the API for programs, and GET /docs, the same as a page.

The page is Swagger UI, whose files are in `server/web/reference`: it needs no other host.
"""

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse

from server.api.dependencies import ServiceDep
from server.api.openapi import with_server
from server.api.routes.pages.workbench import WEB, page_headers

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
async def document(request: Request, service: ServiceDep) -> JSONResponse:
    """Return the OpenAPI document, whose paths begin where clients reach this server."""
    url = service.settings.public_url or str(request.scope.get("root_path", ""))
    return JSONResponse(with_server(request.app.openapi(), url))


@router.get("/docs")
async def page() -> FileResponse:
    """Return the page. It is public, as the document is; only the requests that it sends need a key."""
    # the pictures in Swagger UI's style sheet are data: URLs
    return FileResponse(WEB / "reference" / "index.html", headers=page_headers(images="data:"))
