from collections.abc import Sequence

import pytest

from qpipe.errors import RecipeError
from qpipe.settings import BenchSettings, CalibrateSettings, PreprocessSettings, validated


def dotted(location: Sequence[int | str]) -> str:
    return ".".join(map(str, location))


def test_preprocess_settings_have_the_keys_of_preprocess() -> None:
    from qpipe.data import Preprocess

    every = {
        "mean": (0.5,),
        "std": (0.25,),
        "resize": 40,
        "crop": 32,
        "color": "BGR",
        "layout": "NHWC",
        "pixel_range": 255,
    }
    overrides = PreprocessSettings.model_validate(every).overrides()
    assert overrides is not None
    assert set(overrides) == set(Preprocess.model_fields)
    merged = Preprocess().merge(overrides)
    assert (merged.mean, merged.crop, merged.color, merged.pixel_max) == ((0.5,), 32, "BGR", 255)


def test_what_is_not_given_overrides_nothing() -> None:
    assert PreprocessSettings().overrides() is None
    assert PreprocessSettings(mean=(0.5,)).overrides() == {"mean": (0.5,)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batches": 0}, "batches: 0, expected greater than or equal to 1"),
        ({"batches": "5"}, "batches: '5', expected a valid integer"),
        ({"batches": True}, "batches: True, expected a valid integer"),
        ({"weight_bits": 9}, "weight_bits: 9, expected 2, 3, 4, 5, 6, 7 or 8"),
        ({"activation_bits": 1}, "activation_bits: 1, expected 2, 3, 4, 5, 6, 7 or 8"),
        ({"weight_rounding": "up"}, "weight_rounding: 'up', expected 'ceil' or 'nearest'"),
        ({"percentile": float("nan")}, "percentile: nan, expected a finite number"),
        ({"batchs": 5}, "batchs: unknown key, did you mean 'batches'?"),
        ({"batches": 0, "cpu": "arm"}, "batches: 0, expected greater than or equal to 1; cpu: 'arm', expected"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        validated(CalibrateSettings, values, dotted)
    assert str(raised.value).startswith(message)


def test_a_key_far_from_all_others_lists_them() -> None:
    with pytest.raises(
        RecipeError,
        match=r"^zzz: unknown key, expected one of batch_sizes, input_shape, repeats, seconds, threads, split, "
        r"limit$",
    ):
        validated(BenchSettings, {"zzz": 1}, dotted)
