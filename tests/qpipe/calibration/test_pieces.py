import numpy as np
import pytest

from qpipe.calibration import pieces as module
from qpipe.calibration.pieces import Pieces
from qpipe.errors import DataError
from support.networks import Network
from support.run import run


def network() -> Network:
    net = Network(3, 8, 8)
    net.op("Relu", net.conv("x", 3, 8, bias=True), name="r")
    return net


def test_a_batch_gives_the_same_bits_whatever_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut into pieces of five images, wherever it stands and in whichever process."""
    net = network()
    monkeypatch.setattr(module, "_PIECE_VALUES", 5 * 8 * 8 * 8)
    batches = [net.inputs(count, seed=count) for count in (7, 12, 1)]
    together = Pieces(net.model("r_y"), ["r_y"])
    found = [list(together.run(batch)) for batch in batches]
    assert [[images for _, images in batch] for batch in found] == [[5, 2], [5, 5, 2], [1]]
    for batch, cut in zip(batches, found, strict=True):
        for (tensors, _), (alone, _) in zip(cut, Pieces(net.model("r_y"), ["r_y"]).run(batch), strict=True):
            np.testing.assert_array_equal(tensors["r_y"], alone["r_y"])


def test_names_of_inputs_and_of_values() -> None:
    net = network()
    model, batch = net.model("r_y"), net.inputs(4)
    [(tensors, images)] = Pieces(model, ["x", "r_y"]).run(batch)
    assert images == 4
    np.testing.assert_array_equal(tensors["x"], batch)
    np.testing.assert_array_equal(tensors["r_y"], run(model, batch)[0])
    assert [value.name for value in model.graph.outputs] == ["r_y"]


def test_a_tensor_that_is_asked_for_twice_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that has it on two grids is cut as the float one that has it once."""
    net = network()
    monkeypatch.setattr(module, "_PIECE_VALUES", 6 * 8 * 8 * 8)
    found = Pieces(net.model("r_y"), ["r_y", "r_y"]).run(net.inputs(7))
    assert [images for _, images in found] == [3, 3, 1]


def test_values_that_are_not_finite() -> None:
    net = network()
    batch = net.inputs()
    batch[0] = np.inf
    with pytest.raises(DataError, match="expected finite inputs"):
        next(Pieces(net.model("r_y"), ["r_y"]).run(batch))
