"""Which of a text model's image models answers, by the size of the request."""

from typing import Any

import pytest

from pipelines.models.catalogue import DEFAULT_MODEL, read_catalogue
from server.service.requests.image_models import ImageModels

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
    ],
)
def test_the_one_that_can_make_the_size_answers(body: dict[str, Any], answering: str) -> None:
    asked = CATALOGUE[DEFAULT_MODEL]

    assert ImageModels(CATALOGUE).answering(asked, {**body, "input_image": "sha256:0"}).id == answering


@pytest.mark.parametrize("image", [None, [], False])
def test_without_an_image_the_model_answers_itself(image: Any) -> None:
    asked = CATALOGUE[DEFAULT_MODEL]

    assert ImageModels(CATALOGUE).answering(asked, {"input_image": image}) is asked
