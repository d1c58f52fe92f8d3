import numpy as np
import pytest

from qpipe.data import check_fits, check_labels, open_data
from qpipe.data.checks import check_floats, check_pixels
from qpipe.data.inputs import Input
from qpipe.errors import DataError


def takes(shape):
    """A network of one input."""
    return [Input("x", tuple(shape), np.dtype(np.float32))]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_labels_become_int64(dtype: type) -> None:
    labels = check_labels(np.array([[0], [2]], dtype), 2, 3, "f")
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, 3], 3, "f: label 1 is 3, expected 0 to 2"),
        ([-1, 0], 3, "f: label 0 is -1, expected 0 to 2"),
        ([0.5, np.inf], None, "f: label 1 is inf, expected finite"),
        ([0, 1, 2], 3, "f: 3 labels for 2 samples"),
        (["a", "b"], 3, "f: labels are <U1, expected numbers"),
    ],
)
def test_bad_labels(labels: list[object], classes: int | None, message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_labels(np.array(labels), 2, classes, "f")
    assert str(caught.value) == message


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_must_be_finite_in_float32(bad: float) -> None:
    values = np.zeros((3, 2, 2))
    values[1, 0, 1] = bad
    with pytest.raises(
        DataError, match=rf"^f: sample 1 has the value {bad} at \[0, 1\], expected finite$".replace("+", ".")
    ):
        check_floats(values, "f")


def test_arrays_of_wrong_type_or_shape() -> None:
    with pytest.raises(DataError, match="f: values are int64, expected float values or uint8 pixels"):
        check_floats(np.zeros((2, 2), np.int64), "f")
    with pytest.raises(DataError, match=r"values are int8, .*; of codes the real numbers that they stand for"):
        check_floats(np.zeros((2, 2), np.int8), "f")
    with pytest.raises(DataError, match=r"f: values have shape \[2\], expected \[N, C, H, W\]"):
        check_floats(np.zeros(2), "f")
    with pytest.raises(DataError, match=r"f: images have shape \[2, 4, 4\], expected \[N, H, W, C\]"):
        check_pixels(np.zeros((2, 4, 4), np.uint8), "f")
    with pytest.raises(DataError, match=r"f: shape is \[0, 4, 4, 3\], expected at least one sample"):
        check_pixels(np.zeros((0, 4, 4, 3), np.uint8), "f")


IMAGES = np.zeros((2, 8, 6, 3), np.uint8)


@pytest.mark.parametrize("shape", [[None, 3, 8, 6], ["batch", 3, None, 6], [1, 3, 8, 6], [None] * 4])
def test_source_fits_whatever_the_batch_dimension(shape: list[int | str | None]) -> None:
    source = open_data(IMAGES)
    check_fits(source, takes(shape))
    assert source.image_shape == (3, 8, 6)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([None, 3, 32, 32], "[N, 3, 8, 6], the model expects [N, 3, 32, 32]; set the preprocessing's resize and crop"),
        ([1, 8, 6, 3], "[N, 3, 8, 6], the model expects [1, 8, 6, 3]; set the preprocessing's layout"),
        ([None, 1, 8, 6], "[N, 3, 8, 6], the model expects [N, 1, 8, 6]"),
        ([None, 144], "[N, 3, 8, 6], the model expects [N, 144]"),
    ],
)
def test_source_that_does_not_fit(shape: list[int | None], message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_fits(open_data(IMAGES), takes(shape))
    assert str(caught.value) == f"data 'given from Python': inputs have shape {message}"


def test_channels_that_come_first_are_not_taken_for_a_layout() -> None:
    with pytest.raises(DataError, match="give \\[N, H, W, C\\], the data have their channels first"):
        check_fits(open_data(IMAGES.transpose(0, 3, 1, 2)), takes([None, 3, 8, 6]))
