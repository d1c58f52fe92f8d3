"""Values are drawn from all images alike."""

import numpy as np

from qpipe.calibration.samples import sample_values
from support.networks import Network


def test_as_many_as_asked_for_of_every_image() -> None:
    n = Network(1, 8, 8)
    model = n.model(n.op("Relu", n.conv("x", 1, 4)))
    x = np.arange(10, dtype=np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 1, 8, 8), np.float32)
    drawn = sample_values(model, ["x", str(model.graph.outputs[0].name)], x, count=500)
    assert [len(values) for values in drawn.values()] == [500, 500]
    assert set(drawn["x"].tolist()) == set(range(10))


def test_all_where_there_are_fewer() -> None:
    n = Network(1, 2, 2)
    model = n.model(n.conv("x", 1, 4))
    x = n.inputs(3)
    assert np.array_equal(np.sort(sample_values(model, ["x"], x, count=500)["x"]), np.sort(x.reshape(-1)))
