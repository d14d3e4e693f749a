"""Inputs that come in the form of OpenAI's clients: a file, or an object that names one."""

from dataclasses import dataclass
from typing import Any

from server.api.bodies.body import RequestBody
from server.core.errors import InvalidParamsError


@dataclass(frozen=True, slots=True)
class Reference:
    """The field `name` of a body, which is an input: the parameter `parameter`.

    It is a file, a text as the parameter takes it, or an object with one of the fields `texts`, whose value is such a
    text, or of `ids`. A form has the fields of the object as `name[field]`.
    """

    name: str
    parameter: str
    texts: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()

    @property
    def in_json(self) -> tuple[str, ...]:
        """The places of long texts in JSON."""
        return (self.name, *(f"{self.name}.{field}" for field in self.texts))

    @property
    def long_texts(self) -> tuple[str, ...]:
        """The names of long texts in a form."""
        return (self.name, *(self._flat(field) for field in self.texts))

    def unwrap(self, body: RequestBody) -> None:
        """Have the input of a body as that of the parameter. Of an object with an id, `name.FIELD` is in the content.

        Raises InvalidParamsError.
        """
        self._flatten(body)
        flat = [self.name, *(self._flat(field) for field in self.texts)]
        ids = [self._flat(field) for field in self.ids]
        given = [name for name in (*flat, *ids) if name in body.content or name in body.inputs]
        if len(given) > 1 or (given and (self.parameter in body.content or self.parameter in body.inputs)):
            raise InvalidParamsError(f"{self.name} must be given once: {self._forms}")
        for name in given:
            body.names[self.parameter] = self.name
            if name in body.inputs:
                body.inputs[self.parameter] = body.inputs.pop(name)
                continue
            value = body.content.pop(name)
            if not isinstance(value, str) or not value.strip():
                raise InvalidParamsError(f"{self.name} must be {self._forms}")
            body.content[self.parameter if name in flat else self.id_of(name)] = value

    def id_of(self, flat: str) -> str:
        """The name in the content for an id that a form has under its own."""
        return flat.replace("[", ".").removesuffix("]")

    def _flatten(self, body: RequestBody) -> None:
        for field in self.texts:
            if (path := body.inputs.pop(f"{self.name}.{field}", None)) is not None:
                body.inputs[self._flat(field)] = path
        value = body.content.get(self.name)
        if isinstance(value, dict):
            del body.content[self.name]
            body.content |= {self._flat(field): each for field, each in value.items() if each is not None}
            known = {*self.texts, *self.ids}
            if not known & value.keys() and not any(self._flat(field) in body.inputs for field in self.texts):
                raise InvalidParamsError(f"{self.name} must be {self._forms}")
        elif value is None:
            body.content.pop(self.name, None)

    def _flat(self, field: Any) -> str:
        return f"{self.name}[{field}]"

    @property
    def _forms(self) -> str:
        return f"a file, or an object with {' or '.join((*self.texts, *self.ids))}"
