import inspect
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from qpipe.cli.options import JsonOption, expand_settings, flag, parse_layers
from qpipe.errors import RecipeError
from qpipe.settings import BenchSettings, CalibrateSettings, PreprocessSettings, Settings


class Other(Settings):
    repeats_of_other: int = 3


def app_of(*models: type[Settings]) -> tuple[typer.Typer, list[dict[str, Any]]]:
    """A command with one parameter per model, and what it was called with."""
    calls: list[dict[str, Any]] = []

    def command(**values: Any) -> None:
        calls.append(values)

    parameters = [
        inspect.Parameter(f"group{number}", inspect.Parameter.KEYWORD_ONLY, annotation=model)
        for number, model in enumerate(models)
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = typer.Typer(rich_markup_mode=None)
    app.command()(expand_settings(command))
    return app, calls


def test_each_field_is_an_option_with_its_default_and_help() -> None:
    app, calls = app_of(CalibrateSettings, PreprocessSettings)
    assert CliRunner().invoke(app, []).exit_code == 0
    assert calls == [{"group0": CalibrateSettings(), "group1": PreprocessSettings()}]
    text = " ".join(CliRunner().invoke(app, ["--help"]).output.split())
    for model in (CalibrateSettings, PreprocessSettings):
        for name, field in model.model_fields.items():
            assert flag(name) in text
            assert field.description is not None
            assert field.description in text


def test_given_options_reach_their_models() -> None:
    app, calls = app_of(CalibrateSettings, PreprocessSettings, BenchSettings)
    words = "--weight-bits 4 --per-tensor --percentile 99.5 --mean 0.5,1 --pixel-range 255 --batch-sizes 1,8"
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 0, result.output
    calibrate, preprocess, bench = (calls[0][f"group{number}"] for number in range(3))
    assert (calibrate.weight_bits, calibrate.per_channel, calibrate.percentile) == (4, False, 99.5)
    assert (preprocess.mean, preprocess.pixel_range) == ((0.5, 1.0), 255)
    assert bench.batch_sizes == (1, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--batches 0", "--batches: 0, expected greater than or equal to 1"),
        ("--mean 0.5,x", "--mean: 'x', expected a valid number"),
        ("--mean nan", "--mean: nan, expected a finite number"),
        ("--batch-sizes 1.5", "--batch-sizes: 1.5, expected a valid integer"),
        ("--batch-sizes 0,1", "--batch-sizes: 0, expected greater than or equal to 1"),
    ],
)
def test_a_value_that_the_recipe_would_refuse_is_refused_by_its_option(words: str, message: str) -> None:
    app, calls = app_of(CalibrateSettings, PreprocessSettings, BenchSettings)
    error = CliRunner().invoke(app, words.split()).exception
    assert isinstance(error, RecipeError)
    assert str(error).startswith(message)
    assert calls == []


def test_layers_are_words() -> None:
    found = parse_layers(["layer3.*:weight_bits=4,activation_bits=5", "a:b:weight_clip=3.5", "c:stays_float=true"])
    assert [entry.arguments() for entry in found] == [
        {"match": "layer3.*", "weight_bits": 4, "activation_bits": 5, "weight_clip": None, "stays_float": None},
        {"match": "a:b", "weight_bits": None, "activation_bits": None, "weight_clip": 3.5, "stays_float": None},
        {"match": "c", "weight_bits": None, "activation_bits": None, "weight_clip": None, "stays_float": True},
    ]
    assert parse_layers(None) == []


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("conv1", "--layer: 'conv1', expected MATCH:KEY=VALUE,... as in"),
        ("conv1:weight_bits", "--layer: 'conv1:weight_bits', expected MATCH:KEY=VALUE"),
        ("conv1:weight_bits=9", "--layer 'conv1:weight_bits=9': weight_bits: 9, expected 2, 3, 4, 5, 6, 7 or 8"),
        ("conv1:weight_bit=4", "--layer 'conv1:weight_bit=4': weight_bit: unknown key, did you mean 'weight_bits'?"),
        (":weight_bits=4", "--layer ':weight_bits=4': match: '', expected "),
    ],
)
def test_a_layers_word_that_is_wrong(word: str, message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_layers([word])
    assert str(raised.value).startswith(message)


def test_options_stand_where_their_group_stood_and_others_stay() -> None:
    def command(first: str, settings: Other, json: JsonOption = False) -> None: ...

    expanded = inspect.signature(expand_settings(command))
    assert list(expanded.parameters) == ["first", "repeats_of_other", "json"]
    assert expanded.parameters["repeats_of_other"].default == 3
