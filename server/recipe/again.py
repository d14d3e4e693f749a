"""From a recipe to the request that makes its video again, and what tells two recipes apart."""

from typing import Any

from server.recipe.recipe import Recipe


def request_of(recipe: Recipe) -> dict[str, Any]:
    """Return the parameters of a request for the same video, without its inputs and the model.

    Its prompt is the one that the video was made of: no language model is asked again.
    """
    parameters = recipe.parameters.model_dump(mode="json", exclude_none=True)
    if recipe.enhanced_prompt is not None:
        parameters["prompt"] = recipe.enhanced_prompt
    if "extend_from" in recipe.inputs:
        # the size is that of the video
        del parameters["width"], parameters["height"]
    return parameters


def differences(before: Recipe, after: Recipe) -> list[str]:
    """Return what two videos were made with, and differs: each with its name and both values, the fingerprint last."""
    facts: list[tuple[str, Any, Any]] = [("Paddock", before.version, after.version)]
    facts += [(name, getattr(before, name), getattr(after, name)) for name in ("model", "repo", "revision")]
    if before.enhanced_prompt != after.enhanced_prompt:
        facts.append(("enhanced_prompt", _state(before.enhanced_prompt), _state(after.enhanced_prompt)))
    before_, after_ = ({**each.parameters.model_dump(mode="json"), **each.inputs} for each in (before, after))
    if before.enhanced_prompt is not None and after.enhanced_prompt is None:
        # made again of the words that were enhanced, which are its only ones
        before_["prompt"] = after_["prompt"]
    facts += [(name, before_.get(name), after_.get(name)) for name in sorted({*before_, *after_})]
    facts += [
        (name, before.fingerprint.get(name), after.fingerprint.get(name))
        for name in sorted({*before.fingerprint, *after.fingerprint})
    ]
    return [f"{name} ({_short(one)} there, {_short(other)} here)" for name, one, other in facts if one != other]


def _state(text: str | None) -> str:
    return "none" if text is None else "another text"


def _short(value: Any) -> str:
    text = "none" if value is None or value == "" else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
