"""Exception handlers: every error becomes a JSON body in the form of the contract."""

from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from server.api.middleware import has_head, split_path
from server.api.openai.errors import error_body
from server.core.errors import BY_STATUS, InvalidParamsError, MethodNotAllowedError, PaddockError, ResourceNotFoundError

_FILE_METHODS = ("GET", "HEAD")
_IN_QUERY = "/?:@!$&'()*+,;=%"
"""What browsers leave in a query as it is."""


def add_error_handlers(app: FastAPI) -> None:
    """Register the handlers with an application."""

    @app.exception_handler(PaddockError)
    async def _paddock_error(request: Request, error: PaddockError) -> Response:
        return JSONResponse(_body(request, error), error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def _validation_error(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        rendered = InvalidParamsError(f"{where}: {first['msg']}")
        return JSONResponse(_body(request, rendered), rendered.status)

    @app.exception_handler(HTTPException)
    async def _http_error(request: Request, error: HTTPException) -> Response:
        kind = BY_STATUS.get(error.status_code, PaddockError)
        headers, sentence = dict(error.headers or {}), str(error.detail)
        prefix, path = split_path(request.scope)
        if kind is MethodNotAllowedError:
            # the router lists the methods of the first route with this path only
            headers["Allow"] = ", ".join(_methods(app, path))
            sentence = f"{prefix}{path} supports {headers['Allow']}, not {request.method}."
        if kind is ResourceNotFoundError:
            if path.endswith("/") and path != "//" and _is_route(app, path[:-1]):
                return _without_slash(path, request.scope["query_string"])
            sentence = f"There is no route {prefix}{path}. {prefix}/openapi.json lists all routes."
        return JSONResponse(_body(request, kind(sentence)), error.status_code, headers)

    @app.exception_handler(ClientDisconnect)
    async def _client_disconnected(_request: Request, _error: ClientDisconnect) -> Response:
        # the client cannot read this response; without it the log would show an unhandled error
        return Response(status_code=InvalidParamsError.status)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, _error: Exception) -> Response:
        rendered = PaddockError(f"{request.method} {request.scope['path']} failed. See the server's log for details.")
        return JSONResponse(_body(request, rendered), rendered.status)


def _body(request: Request, error: PaddockError) -> dict[str, Any]:
    return error_body(split_path(request.scope)[1], error)


def _without_slash(path: str, query: bytes) -> Response:
    """Redirect to the path without its last slash, relatively: a proxy may serve it under another address.

    Starlette's own redirect repeats the request's Host.
    """
    location = f"../{quote(path[:-1].rpartition('/')[2])}"
    return Response(
        status_code=307, headers={"Location": f"{location}?{quote(query, _IN_QUERY)}" if query else location}
    )


def _is_route(app: FastAPI, path: str) -> bool:
    # a mount of static files has no methods
    return any(route.methods and route.path_regex.match(path) for route in iter_route_contexts(app.routes))


def _methods(app: FastAPI, path: str) -> list[str]:
    routes = [route for route in iter_route_contexts(app.routes) if route.path_regex.match(path)]
    # a path of its own may look like another's with an id: the first one is meant
    own = [route for route in routes if route.path_regex.pattern == routes[0].path_regex.pattern]
    # a mount of static files has no methods
    found = {method for route in own for method in route.methods or _FILE_METHODS}
    return sorted(found | ({"HEAD"} if "GET" in found and has_head(path) else set()))
