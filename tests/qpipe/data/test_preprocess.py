import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pydantic import ValidationError

from qpipe.data import Preprocess
from qpipe.errors import DataError

IMAGENET = Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
VALUES_0_255 = np.arange(256, dtype=np.uint8)


@given(st.data())
def test_call_is_exactly_the_table(data: st.DataObject) -> None:
    channels = data.draw(st.integers(1, 4))
    per_channel = st.sampled_from([1, channels])
    number = st.floats(-300, 300, width=32)
    settings = Preprocess(
        mean=data.draw(per_channel.flatmap(lambda n: st.tuples(*[number] * n))),
        std=data.draw(per_channel.flatmap(lambda n: st.tuples(*[st.floats(0.01, 300)] * n))),
        pixel_max=data.draw(st.sampled_from([1.0, 255.0])),
        layout=data.draw(st.sampled_from(["NCHW", "NHWC"])),
    )
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.just(channels)))
    pixels = data.draw(arrays(np.uint8, shape))
    expected = np.stack([settings.table(c)[pixels[..., c]] for c in range(channels)], axis=-1)
    if settings.layout == "NCHW":
        expected = np.moveaxis(expected, -1, 1)
    values = settings(pixels)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_table_is_the_usual_normalization(channel: int) -> None:
    exact = (VALUES_0_255 / 255 - IMAGENET.mean[channel]) / IMAGENET.std[channel]
    # Two float32 roundings of values below 5, and those of the two constants.
    np.testing.assert_allclose(IMAGENET.table(channel), exact, rtol=0, atol=4 * 5 * 2.0**-24)


def test_default_is_pixel_over_255_and_pixel_max_255_the_pixel_itself() -> None:
    np.testing.assert_array_equal(Preprocess().table(0), VALUES_0_255 * np.float32(1 / 255))
    np.testing.assert_array_equal(Preprocess(pixel_max=255).table(2), VALUES_0_255.astype(np.float32))
    centred = Preprocess(pixel_max=255, mean=127, std=128)
    np.testing.assert_array_equal(centred.table(0), (VALUES_0_255.astype(np.float32) - 127) / 128)


def test_floats_of_a_file_get_mean_std_and_layout() -> None:
    values = np.arange(2 * 3 * 5 * 2, dtype=np.float64).reshape(2, 3, 5, 2)
    settings = Preprocess(mean=(1, 2), std=(2, 4), pixel_max=255)
    normal = settings.normalize_floats(values)
    assert normal.dtype == np.float32
    assert normal.shape == (2, 2, 3, 5)
    np.testing.assert_array_equal(normal[:, 1], (values[..., 1] - 2) / 4)
    assert settings.merge({"layout": "NHWC"}).normalize_floats(values).shape == values.shape
    assert Preprocess().normalize_floats(values[:, 0, 0]).shape == (2, 2)


@given(arrays(np.uint8, (4, 4, 3)))
def test_grey_is_what_pillow_makes_of_it(pixels: np.ndarray) -> None:
    grey = Preprocess(color="GRAY").recolor(pixels)
    np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(pixels).convert("L")))


def test_recolor_reverses_or_keeps_channels() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(Preprocess(color="BGR").recolor(pixels), pixels[..., ::-1])
    assert Preprocess().recolor(pixels) is pixels
    assert Preprocess(color="GRAY").recolor(pixels[..., :1]).shape == (1, 2, 2, 1)
    with pytest.raises(DataError, match=r"^f: images have 1 channels, color BGR expects 3$"):
        Preprocess(color="BGR").recolor(pixels[..., :1], "f")


def test_merge_replaces_what_is_given_and_takes_text() -> None:
    merged = IMAGENET.merge({"mean": "0.5,0.5, 0.5", "std": 0.25, "crop": None})
    assert merged == Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25,))
    assert IMAGENET.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"men": "1"}, "preprocessing has no setting 'men'; did you mean 'mean'?"),
        ({"qqq": "1"}, "preprocessing has no setting 'qqq'; expected one of resize, crop"),
        ({"std": "0.2,0,0.2"}, "preprocessing std '0.2,0,0.2': expected numbers above 0"),
        ({"mean": "0.4,x,1"}, "preprocessing mean.1 'x': Input should be a valid number"),
        ({"mean": float("nan")}, "preprocessing mean.0 nan: Input should be a finite number"),
        ({"mean": (1, 2)}, "preprocessing settings: mean has 2 channels, std 3"),
        ({"resize": 10**18}, f"preprocessing resize {10**18}: Input should be less than or equal to 32768"),
        (
            {"mean": (1e308,)},
            "preprocessing settings: mean (1e+308,) and std (0.229, 0.224, 0.225) make values",
        ),
        ({"std": 5e-324}, "preprocessing settings: mean (0.485, 0.456, 0.406) and std (5e-324,) make values"),
        ({"crop": 0}, "preprocessing crop 0: Input should be greater than or equal to 1"),
        ({"crop": 64, "resize": 32}, "preprocessing settings: crop is 64, expected at most resize, 32"),
        ({"pixel_max": 3}, "preprocessing pixel_max 3: expected 1 or 255"),
        ({"color": "RBG"}, "preprocessing color 'RBG': Input should be 'RGB', 'BGR' or 'GRAY'"),
    ],
)
def test_bad_overrides_are_one_line(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        IMAGENET.merge(overrides)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        IMAGENET.resize = 3  # type: ignore[misc]


def test_channels_must_match_mean_and_std() -> None:
    with pytest.raises(DataError, match=r"^data: images have 1 channels, mean has 3 values$"):
        IMAGENET(np.zeros((1, 2, 2, 1), np.uint8))
