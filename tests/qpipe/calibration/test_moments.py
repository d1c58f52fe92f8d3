import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.calibration.moments import measure_moments, moments, no_moments
from qpipe.errors import DataError
from support.networks import Network
from support.run import run

FLOAT64 = 1e-12  # sums of a few thousand float64 values
FLOAT32 = 1e-5  # the runtime's products, on another number of images


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=5), spatial=st.sampled_from([(), (1,), (3, 4)]),
    shift=st.sampled_from([0.0, 3.0, -1e4]), seed=st.integers(0, 100),
)  # fmt: skip
def test_pieces_merge_to_the_whole(counts: list[int], spatial: tuple[int, ...], shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pieces = [(rng.standard_normal((n, 3, *spatial)) + shift).astype(np.float32) for n in counts]
    merged = no_moments(3)
    for piece in pieces:
        merged = merged.merged(moments(piece))
    whole = np.concatenate(pieces).astype(np.float64)
    axes = (0, *range(2, whole.ndim))
    assert (merged.count == whole.size / 3).all()
    assert merged.mean == pytest.approx(whole.mean(axes), rel=FLOAT64, abs=FLOAT64)
    assert merged.variance == pytest.approx(whole.var(axes), rel=FLOAT64, abs=FLOAT64 * shift**2)


def test_a_constant_has_no_variance() -> None:
    tensor = np.full((5, 2, 3), 0.1, np.float32)
    merged = moments(tensor[:2]).merged(moments(tensor[2:]))
    assert merged.mean == pytest.approx(np.float32(0.1), rel=FLOAT64)
    assert (merged.variance < FLOAT64).all()


def test_nothing_merged_is_nothing() -> None:
    assert not no_moments(2).merged(no_moments(2)).count.any()


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_measured_on_a_network(batch: int | str) -> None:
    """Whatever the batch size that the model fixes, and whatever remains."""

    def network(size: int | str) -> Network:
        net = Network(3, 8, 8, batch=size)
        net.head(net.op("Relu", net.conv("x", 3, 8, bias=True), name="r"), 8)
        return net

    net, free = network(batch), network("N")
    output = net.nodes[-1].output[0]
    batches = [net.inputs(count, seed=count) for count in (13, 6, 1)]
    found = measure_moments(net.model("r_y", output), {"r_y": 8, output: 5}, batches)
    tensors = run(free.model("r_y", output), np.concatenate(batches))
    for name, tensor in zip(("r_y", output), tensors, strict=True):
        axes = (0, *range(2, tensor.ndim))
        assert found[name].mean == pytest.approx(tensor.mean(axes, np.float64), rel=FLOAT32, abs=FLOAT32)
        assert found[name].variance == pytest.approx(tensor.var(axes, np.float64), rel=FLOAT32)


def test_no_batch() -> None:
    net = Network(3, 8, 8)
    y = net.conv("x", 3, 4)
    with pytest.raises(DataError, match="no batch"):
        measure_moments(net.model(y), {y: 4}, [])
