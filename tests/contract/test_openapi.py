"""The OpenAPI document compared with the running server, and both with the hosted API's document."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig

from server.core.catalogue import load_catalogue
from server.core.settings.settings import Settings
from server.runtime.app import create_app
from server.service.requests.echo import ENHANCE_NAMES, EXTEND, IMAGE_MODE
from server.service.requests.inputs import INPUTS
from tests.support.server_process import MODEL, SMALL, ServerProcess

HUB = json.loads((Path(__file__).parents[1] / "data" / "hub-openapi.json").read_text())

# All checks of schemathesis run except one, which contradicts the contract:
# - negative_data_rejection on POST /queue: "other bad parameters still get 200 and the generation becomes failed";
#   and on GET and POST elsewhere unknown query parameters and body fields are "kept, echoed and ignored"
KEY = "a-key-for-this-test"
CONFIG = {
    "generation": {"mode": "all", "max-examples": 15, "deterministic": True},
    # a server with keys, so that requests without a key and with a wrong key are refused
    "auth": {"openapi": {"HTTPBearer": {"bearer": KEY}}},
    "checks": {
        "negative_data_rejection": {"enabled": False},
        # no server error is expected here: the documented 503 is that of a stopping server
        "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx"]},
    },
    # the document cannot describe what makes an image
    "operations": [
        {"include-path": "/api/ai/uploads", "checks": {"positive_data_acceptance": {"enabled": False}}},
        # nor that a prompt needs a word
        {"include-path": "/api/ai/prompts/enhance", "checks": {"positive_data_acceptance": {"enabled": False}}},
        # nor which LoRAs and values a model takes
        {"include-path": "/api/ai/estimate", "checks": {"positive_data_acceptance": {"enabled": False}}},
        # nor what makes a cursor, and that it excludes a page
        {"include-path": "/api/ai/generations", "checks": {"positive_data_acceptance": {"enabled": False}}},
        # nor which sizes, lengths, images and videos a model takes, and which videos there are
        {"include-path-regex": "^/v1/videos", "checks": {"positive_data_acceptance": {"enabled": False}}},
    ],
}
SIZES = {name: value for name, value in SMALL.items() if name not in ("model", "prompt")}


@pytest.fixture(scope="module")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A separate server, because the generated requests fill its queue."""
    server = ServerProcess(tmp_path_factory.mktemp("openapi") / "data", api_keys=KEY)
    server.http.headers["Authorization"] = f"Bearer {KEY}"
    server.start()
    yield server
    assert server.process is not None
    assert server.process.poll() is None, server.log_text()
    assert "Traceback" not in server.log_text()
    server.close()


DOCUMENT = create_app(Settings(demo=True)).openapi()
schema = schemathesis.openapi.from_dict(DOCUMENT, config=SchemathesisConfig.from_dict(CONFIG))


# the event stream never ends: test_events tests it
@pytest.mark.heavy
@schema.exclude(path="/api/events").parametrize()
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_every_response_is_documented(case: Case, api_server: ServerProcess) -> None:
    limit_size(case)
    # generations queued earlier run first, which takes long on a busy machine
    case.call_and_validate(base_url=api_server.url, timeout=240)


def limit_size(case: Case) -> None:
    """Make most bodies name a real model, and no valid body request a video that takes minutes or an unknown LoRA."""
    if case.operation.path == "/v1/videos" and isinstance(case.body, dict):
        # another one: the document's own example may be the body
        case.body = {**SIZES, **case.body}
    makes_videos = case.operation.path in ("/api/ai/queue", "/api/ai/videos/generate")
    if not isinstance(case.body, dict) or not makes_videos:
        return
    if isinstance(case.body.get("model"), str) and len(case.body) % 4:
        case.body["model"] = MODEL
    document = case.operation.schema.raw_schema
    body = document["paths"][case.operation.path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    limits = document["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]["properties"]
    for name, small in SIZES.items():
        if jsonschema_rs.is_valid(limits[name], case.body.get(name)):
            case.body[name] = small
    # the document cannot describe what makes an image or a video, nor which of them a model takes
    for name in (*INPUTS, IMAGE_MODE, EXTEND):
        if isinstance(case.body.get(name), str):
            del case.body[name]
    # nor that two names of one parameter exclude each other
    for name in ENHANCE_NAMES:
        if case.body.get(name) is True:
            del case.body[name]
    # the document cannot list the names of LoRAs, and this server has none
    if case.body.get("loras") and jsonschema_rs.is_valid(limits["loras"], case.body["loras"]):
        case.body["loras"] = []


def test_the_check_for_server_errors_is_active() -> None:
    assert not_a_server_error in schemathesis.checks.CHECKS.get_all()


def test_every_route_is_documented_with_an_example(api_server: ServerProcess) -> None:
    document = api_server.http.get(f"{api_server.url}/openapi.json").json()
    assert document == DOCUMENT
    routes = {(method, path) for path, methods in document["paths"].items() for method in methods}

    assert routes == {
        ("post", "/api/ai/videos/generate"),
        ("post", "/api/ai/queue"),
        ("post", "/api/ai/uploads"),
        ("post", "/api/ai/prompts/enhance"),
        ("post", "/api/ai/estimate"),
        ("get", "/api/ai/queue"),
        ("get", "/api/ai/queue/{generation_id}"),
        ("delete", "/api/ai/queue/{generation_id}"),
        ("get", "/api/ai/queue/{generation_id}/preview"),
        ("get", "/api/ai/generations"),
        ("get", "/api/ai/generations/{generation_id}"),
        ("delete", "/api/ai/generations/{generation_id}"),
        ("patch", "/api/ai/generations/{generation_id}"),
        ("get", "/api/ai/generations/tags"),
        ("get", "/api/ai/generations/facets"),
        ("post", "/api/ai/generations/marks"),
        ("post", "/api/ai/generations/delete"),
        ("post", "/api/ai/generations/archive"),
        ("get", "/api/events"),
        ("get", "/api/ai/models"),
        ("get", "/api/ai/models/search"),
        ("get", "/api/ai/models/featured"),
        ("get", "/api/ai/models/{id}"),
        ("post", "/api/ai/models/{id}/activate"),
        ("post", "/api/ai/models/{id}/deactivate"),
        ("get", "/api/ai/loras"),
        ("get", "/api/evaluations/models"),
        ("get", "/api/files/{token}"),
        ("get", "/api/files/inputs/{token}"),
        ("get", "/api/files/archives/{token}"),
        ("get", "/api/files/stills/{token}"),
        ("post", "/v1/videos"),
        ("get", "/v1/videos"),
        ("get", "/v1/videos/{video_id}"),
        ("delete", "/v1/videos/{video_id}"),
        ("get", "/v1/videos/{video_id}/content"),
        ("post", "/v1/videos/{video_id}/remix"),
        ("post", "/v1/videos/extensions"),
        ("post", "/v1/videos/edits"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{model_id}"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }
    for method, path in routes:
        operation = document["paths"][path][method]
        assert operation["summary"], path
        if "application/json" in operation.get("requestBody", {}).get("content", {}):
            assert operation["requestBody"]["content"]["application/json"]["example"], path
        success = operation["responses"].get("200") or operation["responses"]["201"]
        answer = success["content"].get("application/json")
        if answer is not None:
            name = answer["schema"]["$ref"].rsplit("/", 1)[1]
            assert document["components"]["schemas"][name]["example"], path


@pytest.mark.parametrize(
    ("public_url", "root_path", "url"),
    [
        (None, "", "/"),
        (None, "/video", "/video"),
        ("https://paddock.test/video/", "", "https://paddock.test/video"),
        ("https://paddock.test", "/video", "https://paddock.test"),
    ],
)
def test_the_document_names_the_address_that_clients_use(
    tmp_path: Path, public_url: str | None, root_path: str, url: str
) -> None:
    app = create_app(Settings(demo=True, data_dir=tmp_path, public_url=public_url))
    app.state.service = SimpleNamespace(settings=Settings(public_url=public_url))
    client = TestClient(app, base_url="http://127.0.0.1", root_path=root_path)

    # twice, for an answer must not change the next one
    for _ in range(2):
        assert client.get("/openapi.json").json()["servers"] == [{"url": url}]


def in_json_schema(node: Any) -> Any:
    """Replace OpenAPI 3.0's `nullable` with JSON Schema."""
    if isinstance(node, list):
        return [in_json_schema(item) for item in node]
    if not isinstance(node, dict):
        return node
    plain = {key: in_json_schema(value) for key, value in node.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain


def hub_validator(name: str) -> Any:
    """A validator for a schema of the hosted API."""
    components = {key: in_json_schema(value) for key, value in HUB["components"]["schemas"].items()}
    return jsonschema_rs.validator_for({"$ref": f"#/components/schemas/{name}", "components": {"schemas": components}})


def test_responses_match_the_schemas_of_the_hosted_api(api_server: ServerProcess) -> None:
    http = api_server.http
    created = http.post("/queue", json={**SMALL, "num_generations": 2, "target_namespace": "ox"}).json()
    generation_id = created["generations"][0]["generation_id"]
    api_server.wait_for(generation_id, "succeeded")
    http.post("/queue", json={**SMALL, "height": 0})

    for shape, answer in {
        "QueueCreateResponse": created,
        "QueueGenerationResponse": http.get(f"/queue/{generation_id}").json(),
        "QueueListResponse": http.get("/queue", params={"status": "succeeded"}).json(),
        "GenerationsListResponse": http.get("/generations").json(),
        "GenerationsShowResponse": http.get(f"/generations/{generation_id}").json(),
        "ListModelsResponse": http.get("/models").json(),
        "Model": http.get(f"/models/{MODEL}").json(),
        "VideoGenerateResponse": http.post("/videos/generate", json=SMALL).json(),
        "QueueDeleteResponse": http.delete(f"/queue/{generation_id}").json(),
    }.items():
        errors = [f"{error.instance_path}: {error.message}" for error in hub_validator(shape).iter_errors(answer)]
        assert not errors, (shape, errors)
        assert answer, shape


def test_the_limits_of_requests_come_from_the_catalogue_and_the_settings() -> None:
    limited = Settings(demo=True, max_num_generations=7, max_prompt_chars=123)
    catalogue = load_catalogue(limited)
    bodies = create_app(limited).openapi()["components"]["schemas"]

    for name in ("GenerateRequest", "EnqueueRequest"):
        shown = {key: value["anyOf"][0] for key, value in bodies[name]["properties"].items() if "anyOf" in value}
        for limit in ("height", "width", "num_frames", "num_inference_steps", "guidance_scale"):
            parameters = [entry.api.by_name[limit] for entry in catalogue.values()]
            assert shown[limit]["minimum"] == min(each.minimum or 0 for each in parameters), limit
            assert shown[limit]["maximum"] == max(each.maximum or 0 for each in parameters), limit
        assert (shown["height"]["maximum"], shown["width"]["maximum"], shown["num_frames"]["maximum"]) == (
            1280,
            1280,
            120,
        )
        assert shown["seed"] == {"type": "integer", "minimum": 0, "maximum": 2**53 - 1, "format": "int64"}
        assert shown["num_generations"]["maximum"] == 7
        assert shown["negative_prompt"]["maxLength"] == bodies[name]["properties"]["prompt"]["maxLength"] == 123
        assert shown["duration"]["maximum"] == 7.5
