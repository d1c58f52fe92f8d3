"""Values within a range are drawn from all samples alike, and all beyond it are kept."""

import math

import numpy as np
import pytest

from qpipe.calibration.samples import ALONE, MOST, Sample, sample_values
from support.networks import Network


def test_as_many_as_asked_for_of_every_image() -> None:
    n = Network(1, 8, 8)
    model = n.model(n.op("Relu", n.conv("x", 1, 4)))
    x = np.arange(10, dtype=np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 1, 8, 8), np.float32)
    ranges = {"x": 9.0, str(model.graph.outputs[0].name): 1e9}
    found = sample_values(model, ranges, x, count=500)
    assert [sample.within.size for sample in found.values()] == [500, 500]
    assert [sample.count for sample in found.values()] == [640, 2560]
    assert set(found["x"].within.tolist()) == set(range(10))


def test_all_where_there_are_fewer() -> None:
    n = Network(1, 2, 2)
    model = n.model(n.conv("x", 1, 4))
    x = n.inputs(3)
    sample = sample_values(model, {"x": 100.0}, x, count=500)["x"]
    assert np.array_equal(np.sort(sample.within), np.sort(x.reshape(-1)))
    assert sample.outside.size == 0


def test_all_beyond_the_range_and_none_of_them_drawn() -> None:
    n = Network(1, 8, 8)
    model = n.model(n.conv("x", 1, 4))
    x = np.zeros((10, 1, 8, 8), np.float32)
    x[::2, 0, 0, :2] = (-7, 9)
    sample = sample_values(model, {"x": 6.0}, x, count=300)["x"]
    assert sorted(sample.outside.tolist()) == [-7] * 5 + [9] * 5
    assert not sample.within.any()


def test_the_size_of_a_sample_is_no_single_peak() -> None:
    n = Network(1, 64, 64)
    model = n.model(n.conv("x", 1, 4))
    x = np.full((4, 1, 64, 64), 2, np.float32)
    x[:, 0, 0, 0] = 100
    (sizes,) = sample_values(model, {"x": 1.0}, x, count=300)["x"].sizes
    assert sizes.tolist() == [2, 2, 2, 2]


def of_sizes(sizes: list[float]) -> Sample:
    return Sample(sizes=[np.array(sizes, np.float32)])


def test_samples_that_are_alike_need_no_room() -> None:
    assert (of_sizes([3.0] * 16).headroom, of_sizes([3.0] * 16).spread) == (1, 0)
    # Small ones say nothing of large ones.
    assert of_sizes([3.0] * 10 + [0.01, 0.1, 0.0, 1e-9]).headroom == 1


def test_few_samples_of_unlike_sizes_need_more_room_than_many() -> None:
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.normal(0, 0.7, 1024))
    few = [of_sizes(sizes[begin : begin + 16].tolist()).headroom for begin in range(0, 1024, 16)]
    many = of_sizes(sizes.tolist()).headroom
    assert many == 1
    assert 1 < np.median(few) < MOST
    # With the room that most of them have they hold nearly all others.
    held = [sizes[begin : begin + 16].max() * room for begin, room in zip(range(0, 1024, 16), few, strict=True)]
    assert np.mean(sizes <= np.median(held)) > 0.98


@pytest.mark.parametrize("sizes", [[], [2.0], [0.0, 0.0]])
def test_a_range_of_unknown_samples_has_half_an_octave(sizes: list[float]) -> None:
    assert of_sizes(sizes).headroom == ALONE == math.sqrt(2)


def test_room_has_an_end() -> None:
    assert of_sizes([1.0] * 3 + [60.0] * 2).headroom == MOST


def test_few_samples_of_unlike_sizes_say_less_than_many() -> None:
    sizes = np.exp(np.random.default_rng(0).normal(0, 0.7, 1024))
    few = [of_sizes(sizes[begin : begin + 16].tolist()).spread for begin in range(0, 1024, 16)]
    assert 0 < of_sizes(sizes.tolist()).spread < np.median(few) < 0.7


def test_how_far_values_reach_on_either_side() -> None:
    n = Network(1, 8, 8)
    model = n.model(n.conv("x", 1, 4))
    x = np.zeros((4, 1, 8, 8), np.float32)
    x[2, 0, 0, :2] = (-7, 9)
    sample = sample_values(model, {"x": 6.0}, x, count=10)["x"]
    assert (sample.low, sample.high) == (-7, 9)
