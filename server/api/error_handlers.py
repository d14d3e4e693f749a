"""Every error as the JSON body of the contract."""

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from server.core.errors import BY_STATUS, InvalidParamsError, MethodNotAllowedError, PaddockError, ResourceNotFoundError

_OF_FILES = ("GET", "HEAD")


def add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(PaddockError)
    async def _paddock_error(_request: Request, error: PaddockError) -> Response:
        return JSONResponse(error.body, error.status, error.headers)

    @app.exception_handler(RequestValidationError)
    async def _validation_error(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        ours = InvalidParamsError(f"{where}: {first['msg']}")
        return JSONResponse(ours.body, ours.status)

    @app.exception_handler(HTTPException)
    async def _http_error(request: Request, error: HTTPException) -> Response:
        kind = BY_STATUS.get(error.status_code, PaddockError)
        headers, sentence, path = dict(error.headers or {}), str(error.detail), request.url.path
        if kind is MethodNotAllowedError:
            # the router names the methods of the first route that has the path, not of all
            headers["Allow"] = ", ".join(_methods(app, path))
            sentence = f"{path} takes {headers['Allow']}, not {request.method}."
        if kind is ResourceNotFoundError:
            sentence = f"There is no route {path}. /openapi.json lists all."
        return JSONResponse(kind(sentence).body, error.status_code, headers)

    @app.exception_handler(ClientDisconnect)
    async def _gone(_request: Request, _error: ClientDisconnect) -> Response:
        # nobody is there to read it; without it the log would be told of a fault
        return Response(status_code=InvalidParamsError.status)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, _error: Exception) -> Response:
        ours = PaddockError(f"{request.method} {request.url.path} failed. The server's log says more.")
        return JSONResponse(ours.body, ours.status)


def _methods(app: FastAPI, path: str) -> list[str]:
    routes = iter_route_contexts(app.routes)
    # a folder of files names no methods
    return sorted({method for route in routes if route.path_regex.match(path) for method in route.methods or _OF_FILES})
