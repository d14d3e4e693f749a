"""GET /openapi.json, the description of the API for programs, and GET /docs, the same for people.

The page is Swagger UI from `server/reference`, so that it works without the internet.
"""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from server.api.dependencies import ServiceDep
from server.api.openapi import with_server

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
async def document(request: Request, service: ServiceDep) -> JSONResponse:
    """Return the OpenAPI document, whose paths begin where clients reach this server."""
    url = service.settings.public_url or str(request.scope.get("root_path", ""))
    return JSONResponse(with_server(request.app.openapi(), url))
