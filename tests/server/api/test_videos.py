"""What a sync request is told of a generation that has no video."""

from dataclasses import replace

import pytest

from server.api.routes.videos import _check
from server.core.errors import ConflictError, InvalidParamsError, PaddockError, UnavailableError
from server.core.generation import Status
from tests.contract.store.examples import new


@pytest.mark.parametrize(
    ("status", "attempt", "sentence", "error"),
    [
        (Status.FAILED, 0, "input_image must be a URL of a public address.", InvalidParamsError),
        (Status.FAILED, 0, "The server cannot keep the image: No space left on device.", UnavailableError),
        (Status.FAILED, 1, "Out of memory.", PaddockError),
        (Status.CANCELLED, 0, None, ConflictError),
    ],
)
def test_who_is_to_blame_is_told(status: Status, attempt: int, sentence: str | None, error: type[PaddockError]) -> None:
    ended = replace(new(), status=status, attempt=attempt, error_message=sentence)

    with pytest.raises(PaddockError) as caught:
        _check(ended)

    assert type(caught.value) is error
    assert (sentence or "was cancelled") in str(caught.value)
