"""What all settings are: strict pydantic models, and their errors in the user's words."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    PlainSerializer,
    Strict,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from qpipe.errors import RecipeError, near


@dataclass(frozen=True)
class Accepts:
    """A note in a type's `Annotated`: the type of what may be given for it, where that is another one."""

    type: Any


def _exact(value: Any, as_float: ValidatorFunctionWrapHandler) -> Fraction:
    return value if isinstance(value, Fraction) else Fraction(as_float(value))


Cpu = Literal["portable", "vnni"]
Format = Literal["qoperator", "integer", "qdq"]
Split = Literal["train", "val", "test"]
Start = Literal["pretrained", "random"]
"""The weights that a network begins with: its own, or those of an untrained one."""
Bits = Literal[2, 3, 4, 5, 6, 7, 8]
Floats = Annotated[tuple[float, ...], Strict(False), Field(min_length=1)]
Exact = Annotated[
    Fraction,
    GetPydanticSchema(lambda _, schema_of: schema_of(Annotated[float, WrapValidator(_exact)])),
    PlainSerializer(float, when_used="json"),
    Accepts(float),
]
"""A number as a fraction: what changes at epoch 30 of 110 does so at an update, not near one."""
Epochs = Annotated[tuple[Annotated[Exact, Field(gt=0)], ...], Strict(False), Field(min_length=1)]
FilePath = Annotated[
    str,
    BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value),
    Accepts(str | os.PathLike[str]),
]
Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Strict(False), Field(min_length=1)]
InputShapes = Annotated[
    Mapping[str, Annotated[tuple[Annotated[int, Field(ge=1, le=2**31)], ...], Strict(False)]],
    BeforeValidator(lambda value: value if isinstance(value, Mapping) else {"": value}),
    Accepts(Sequence[int] | Mapping[str, Sequence[int]]),
]
"""Shapes by the names of inputs; one without a name has an empty one."""


INT64_MAX: Final = 2**63 - 1
FLOAT32_MAX: Final = 3.4e38
SHOWN: Final = 80
"""Characters of a value or key that a message repeats at most."""


class Settings(BaseModel):
    """The arguments of one stage; a key that no field has is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _texts_without_nul(cls, values: Any) -> Any:
        """No path of a file can hold one, and nothing that opens files says so in a line."""
        for name, value in values.items() if isinstance(values, dict) else ():
            if has_nul(value):
                raise ValueError(f"{name}: {value!r} has a NUL, expected none")
        return values

    @field_validator("*")
    @classmethod
    def _fits_into_tensors(cls, value: Any, info: ValidationInfo) -> Any:
        """An integer has 64 bits, another number is one of float32: what runtimes, files and JSON readers take."""
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, int | float | Fraction):
                continue
            largest = INT64_MAX if isinstance(number, int) else FLOAT32_MAX
            if number > largest or number < -largest:
                raise ValueError(f"{info.field_name}: {shown(number)}, expected at most {largest}")
        return value

    def arguments(self) -> dict[str, Any]:
        """The fields by name, as keyword arguments for the verb."""
        return {name: getattr(self, name) for name in type(self).model_fields}


def has_nul(value: object) -> bool:
    """Whether a text or path, or one of several, holds the character that ends a name for the system."""
    if isinstance(value, list | tuple):
        return any(map(has_nul, value))
    return isinstance(value, str | os.PathLike) and "\0" in str(value)


S = TypeVar("S", bound=BaseModel)


def validated(model: type[S], values: object, describe: Callable[[Sequence[int | str]], str]) -> S:
    """`values` as a `model`, or a RecipeError of one line; `describe` turns a location into the user's word for it."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        # A list with a wrong item is also reported as a list that is too short: the item is the news.
        parents = {problem["loc"][:-1] for problem in problems}
        news = [problem for problem in problems if problem["type"] != "too_short" or problem["loc"] not in parents]
        raise RecipeError("; ".join(_explain(model, problem, describe) for problem in news)) from None


_EXPECTED: Final = {
    "model_type": "a table",
    "too_short": "at least one item",
    "tuple_type": "a list",
    "string_too_short": "at least one character",
    "int_parsing_size": "an integer of 64 bits",
}
"""What pydantic says in other words, by the type of the problem."""


def _explain(model: type[BaseModel], problem: Any, describe: Callable[[Sequence[int | str]], str]) -> str:
    """One problem in the user's words: the key, what was found, what was expected."""
    location: tuple[int | str, ...] = problem["loc"]
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return f"{describe(location)}: unknown key, {near(str(location[-1])[:SHOWN], known)}"
    if problem["type"] == "missing":
        return f"{describe(location)}: missing, but required"
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    expected = str(problem["msg"]).removeprefix("Input should be ").removeprefix("a valid dictionary or instance of ")
    expected = _EXPECTED.get(problem["type"], expected)
    return f"{describe(location)}: {shown(problem['input'])}, expected {expected}"


def shown(value: object) -> str:
    """A value that was found, as part of a message: cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, or a list in itself
        text = f"a very large {type(value).__name__}"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys of the model that lies at `location` within `model`."""
    for part in (part for part in location if isinstance(part, str)):
        annotation = next(
            field.annotation for name, field in model.model_fields.items() if (field.alias or name) == part
        )
        for candidate in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return [field.alias or name for name, field in model.model_fields.items()]
