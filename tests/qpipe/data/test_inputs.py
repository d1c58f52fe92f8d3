"""How arrays become what a network runs: rows of a batch, or one sample after the other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.data.inputs import Form, Input, by_name, count_of, fitted, form_of, joined, part_of
from qpipe.errors import DataError

F32, I64 = np.dtype(np.float32), np.dtype(np.int64)


def takes(*shapes, dtype=F32):
    return [Input(name, shape, dtype) for name, shape in zip("abc", shapes, strict=False)]


@pytest.mark.parametrize(
    ("shapes", "form"),
    [
        ([("N", 3)], Form(True, None)),
        ([(4, 3)], Form(True, 4)),
        ([("N", 3), ("M", 2, 2)], Form(True, None)),
        ([(1, 3), (1, 2, 2)], Form(True, 1)),
        ([(2, "N", 8), ("N", 3)], Form(False, 1)),
        ([("N", 3), ()], Form(False, 1)),
        ([(1, 3), (2, 3)], Form(False, 1)),
        ([None], Form(True, None)),
    ],
)
def test_a_batch_is_what_all_inputs_begin_with(shapes, form):
    assert form_of(takes(*shapes)) == form


@given(st.integers(1, 5), st.booleans())
def test_samples_of_a_state_and_a_frame(count, has_axis):
    """A frame's own axis of 1 may be there or not; a state's samples are whole."""
    frame = np.zeros((count, 1, 7) if has_axis else (count, 7), np.float32)
    state = np.ones((count, 2, 1, 4), np.float32)
    found, form = fitted({"a": frame, "b": state}, takes(("N", 7), (2, 1, 4)), "net")
    assert form == Form(False, 1)
    assert (found["a"].shape, found["b"].shape) == ((count, 1, 7), (count, 2, 1, 4))


def test_an_axis_of_one_that_is_the_batch():
    found, form = fitted({"a": np.zeros((5, 1, 7), np.float32)}, takes((1, 7)), "net")
    assert (form, found["a"].shape) == (Form(True, 1), (5, 7))


def test_whole_samples_of_a_network_without_a_batch():
    found, form = fitted(np.zeros((5, 3, 7), np.float32), takes((3, 7)), "net")
    assert (form.is_batched, found["a"].shape) == (False, (5, 3, 7))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int16])
def test_integers_of_another_width_are_the_same_numbers(dtype):
    found, _ = fitted(np.ones((2, 3), dtype), takes(("N", 3), dtype=I64), "net")
    assert found["a"].dtype == np.int64


@pytest.mark.parametrize(
    ("inputs", "shapes", "message"),
    [
        (
            np.zeros((2, 4), np.float32),
            [("N", 3)],
            r"net: input 'a' takes float32 \[N, 3\], the data are float32 \[2, 4\]",
        ),
        (np.zeros((2, 3), bool), [("N", 3)], r"the data are bool \[2, 3\]"),
        (np.zeros((0, 3), np.float32), [("N", 3)], r"the data are float32 \[0, 3\]"),
        (np.zeros((2, 3), np.float32), [("N", 3), ("N", 3)], "inputs are 'a', 'b', the data have one array"),
        ({"a": np.zeros((2, 3))}, [("N", 3), ("N", 3)], "no data for input 'b', expected 'a', 'b', found 'a'"),
        (
            {"a": np.zeros((2, 3), np.float32), "b": np.zeros((2, 2, 2), np.float32)},
            [("N", 3), (2, 3)],
            r"input 'b' takes float32 \[2, 3\], the data are float32 \[2, 2, 2\]",
        ),
    ],
)
def test_data_that_fit_no_input(inputs, shapes, message):
    with pytest.raises(DataError, match=message):
        fitted(inputs, takes(*shapes), "net")


def test_the_only_input_needs_no_name():
    array = np.arange(3)
    assert by_name(array, ["x"], "net")["x"] is array
    assert by_name({"other": array}, ["x"], "net")["x"] is array


@given(st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_parts_and_what_is_joined(counts):
    whole = {"a": np.arange(sum(counts)), "b": np.arange(2 * sum(counts)).reshape(-1, 2)}
    ends = np.cumsum(counts)
    parts = [part_of(whole, slice(end - size, end)) for end, size in zip(ends, counts, strict=True)]
    assert [count_of(part) for part in parts] == counts
    for name, array in joined(parts).items():
        np.testing.assert_array_equal(array, whole[name])
