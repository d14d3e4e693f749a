"""Which of a text model's image models answers, by the size of the request."""

from typing import Any

import pytest

from pipelines.models.catalogue import DEFAULT_MODEL, read_catalogue
from server.service.requests.image_models import ImageModels
from server.service.requests.inputs import GivenInputs, InputImage
from server.service.requests.parameters import resolve

CATALOGUE = read_catalogue()
SMALL, LARGE = (f"wan-ai-wan2-1-i2v-14b-{name}-diffusers" for name in ("480p", "720p"))


@pytest.mark.parametrize(
    ("body", "answering"),
    [
        ({}, SMALL),
        ({"width": 832, "height": 480}, SMALL),
        ({"resolution": "480p", "aspect_ratio": "1:1"}, SMALL),
        ({"width": 416}, SMALL),
        ({"resolution": "720p"}, LARGE),
        ({"width": 1280, "height": 720}, LARGE),
        # nearer to 480p, but wider than that model makes
        ({"width": 960, "height": 540}, LARGE),
        # what none can make is refused by the nearer one
        ({"width": 5000, "height": 5}, SMALL),
        ({"width": 720, "height": 1280}, LARGE),
        ({"width": "wide", "resolution": 480}, SMALL),
        ({"height": 832}, SMALL),
        ({"resolution": "480p", "height": 832}, SMALL),
        ({"width": 10**400, "aspect_ratio": "16:9"}, SMALL),
        ({"height": 10**400, "resolution": "480p"}, SMALL),
    ],
)
def test_the_one_that_can_make_the_size_answers(body: dict[str, Any], answering: str) -> None:
    asked = CATALOGUE[DEFAULT_MODEL]

    assert ImageModels(CATALOGUE).answering(asked, {**body, "input_image": "sha256:0"}).id == answering


def test_size_and_length_are_those_of_the_model_that_was_asked() -> None:
    asked = CATALOGUE["wan-ai-wan2-2-t2v-a14b-diffusers"]

    answering = ImageModels(CATALOGUE).answering(asked, {"input_image": "sha256:0"})

    assert answering.id == "wan-ai-wan2-2-i2v-a14b-diffusers"
    assert answering.api.size("default") == asked.api.size("default") == (832, 480, 41)
    assert answering.api.by_name["num_inference_steps"].default == 40
    params = resolve(answering, {"prompt": "an ox"}, 100, inputs=GivenInputs(InputImage("0" * 64, 900, 1600)))
    assert (params.width, params.height, params.num_frames) == (474, 842, 41)


@pytest.mark.parametrize("image", [None, [], False])
def test_without_an_image_the_model_answers_itself(image: Any) -> None:
    asked = CATALOGUE[DEFAULT_MODEL]

    assert ImageModels(CATALOGUE).answering(asked, {"input_image": image}) is asked
