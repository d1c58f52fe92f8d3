"""Values within a range are drawn from all samples alike, and all beyond it are kept."""

import numpy as np

from qpipe.calibration.samples import sample_values
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
