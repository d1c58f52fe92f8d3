"""Options that commands share, and options made from the settings models.

A command's parameter whose type is a `Settings` model becomes one option per field:

    @expand_settings
    def calibrate(model: ModelArgument, settings: CalibrateSettings, json: JsonOption = False) -> None: ...
"""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Union, get_origin

import typer

from qpipe.errors import RecipeError
from qpipe.settings import DataSettings, LayerSettings, ModelSettings, validated
from qpipe.settings.options import Option, expanded, options_of, settings_of

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=ModelSettings.model_fields["path"].description)]
ModelsArgument = Annotated[list[str], typer.Argument(metavar="MODEL...", help="models: float, QDQ or exported")]
QdqArgument = Annotated[str, typer.Argument(metavar="QDQ", help="a QDQ .onnx file")]
DataOption = Annotated[str, typer.Option("--data", help=DataSettings.model_fields["path"].description)]
OutputOption = Annotated[str, typer.Option("--output", "-o", help="the file to write")]
LayerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--layer",
        metavar="MATCH:KEY=VALUE,...",
        help="what some layers are told, as layer3.*:weight_bits=4,activation_bits=4 or head*:stays_float=true; may be "
        "given again",
    ),
]
_TRUTH = {"true": True, "false": False}
PictureOption = Annotated[str | None, typer.Option("--picture", help="draw it too: a .png or an .svg to write")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout and nothing else")]


def expand_settings(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with each `Settings` parameter replaced by one option for each of its fields.

    The options' values are validated as the recipe's are; a wrong one is a RecipeError that names the option.
    """
    options = [option for model in settings_of(command).values() for option in options_of(model)]
    readers = {o.name: _table if o.is_table else _numbers for o in options if o.is_list}
    call = expanded(command, _parameter, _flag_at)

    @functools.wraps(call)
    def read(**words: Any) -> None:
        call(**{name: readers[name](word) if name in readers else word for name, word in words.items()})

    return read


def parse_layers(words: Sequence[str] | None) -> list[LayerSettings]:
    """The words of `--layer` as entries, as a recipe's [[layer]]; a wrong one is a RecipeError that shows the word."""
    return [_layer(word) for word in words or ()]


def _layer(word: str) -> LayerSettings:
    match, colon, options = word.rpartition(":")
    pairs = [option.partition("=") for option in options.split(",")]
    if not colon or not all(equals for _, equals, _ in pairs):
        raise RecipeError(f"--layer: {word!r}, expected MATCH:KEY=VALUE,... as in 'layer3.*:weight_bits=4'")
    given = {"match": match} | {key.strip(): _TRUTH.get(value, _number(value)) for key, _, value in pairs}
    return validated(LayerSettings, given, lambda location: f"--layer {word!r}: {location[0]}")


def flag(name: str) -> str:
    """The option's name of a field's: `weight_bits` is `--weight-bits`."""
    return "--" + name.replace("_", "-")


def _flag_at(location: Sequence[int | str]) -> str:
    return flag(str(location[0]))


def _parameter(option: Option) -> inspect.Parameter:
    """An option as a parameter that typer reads: its flag, type, default and help."""
    declaration, default, metavar = flag(option.name), option.default, None
    # A function can be given from Python alone.
    kinds = [_word_type(kind) for kind in option.types if get_origin(kind) is not Callable]
    if bool in kinds and option.off != "":
        declaration += f"/--{option.off or 'no-' + declaration.removeprefix('--')}"
    if option.is_table:
        kinds, metavar = [list[str], type(None)], "[NAME=]A,B,..."
    elif option.is_list:
        default, metavar = None if default is None else ",".join(map(str, default)), "A,B,..."
    info = typer.Option(declaration, help=option.help, metavar=metavar)
    annotation: Any = Annotated[Union[tuple(kinds)], info]  # noqa: UP007 - known here alone
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _word_type(kind: Any) -> Any:
    """What a word of the command line is read as: a list of numbers and a path stay words at first."""
    return str if get_origin(kind) in {Sequence, os.PathLike} else kind


def _numbers(words: Any) -> Any:
    """The words of a list as numbers; what is no number stays a word, for the model to refuse."""
    return tuple(map(_number, words.split(","))) if isinstance(words, str) else words


def _table(words: Any) -> Any:
    """The words of a list for each name, as NAME=A,B,...; one by itself may lack it."""
    if not words:
        return None
    pairs = [word.rpartition("=") for word in words]
    names = [name for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise RecipeError(f"{', '.join(words)}: expected one shape for each name")
    return {name: _numbers(numbers) for name, _, numbers in pairs}


def _number(word: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
