import numpy as np
import pytest

from qpipe.calibration.observe import ObservedRange, default_percentile, observe
from qpipe.errors import DataError, ModelError
from support.networks import Network
from support.run import run


def network(batch: int | str = "N") -> Network:
    net = Network(3, 8, 8, batch=batch)
    net.op("Relu", net.conv("x", 3, 8, bias=True), name="r")
    net.head("r_y", 8)
    return net


def output_of(net: Network) -> str:
    return net.nodes[-1].output[0]


@pytest.mark.parametrize("batch", ["N", 1, 5])
def test_ranges_are_those_of_the_batches(batch: int | str) -> None:
    """Whatever the batch size that the model fixes, and whatever remains."""
    net = network(batch)
    model = net.model("r_y", output_of(net))
    reference = network().model("r_y", output_of(net))
    batches = [net.inputs(13, seed=s, scale=s) for s in (1, 3, 2)]
    percentiles = {"x": 99.0, "r_y": 99.9, output_of(net): 90.0}
    found = observe(model, percentiles, batches, magnitudes=frozenset({"x", output_of(net)}))
    for name, percentile in percentiles.items():
        values = [dict(zip(["r_y", output_of(net)], run(reference, b), strict=True)).get(name, b) for b in batches]
        magnitudes = [np.abs(v) if name != "r_y" else v for v in values]
        ymax = max(np.percentile(v, percentile, method="inverted_cdf") for v in magnitudes)
        # The network runs on other batch sizes, whose float sums may be in another order.
        assert found[name].ymax == pytest.approx(ymax, rel=1e-5)
        assert found[name].is_negative == (name != "r_y")


def test_the_model_stays_as_it_is() -> None:
    net = network()
    model = net.model(output_of(net))
    observe(model, {"r_y": 99.0}, [net.inputs()], magnitudes=frozenset())
    assert [value.name for value in model.graph.outputs] == [output_of(net)]


def test_only_the_input() -> None:
    net = network()
    found = observe(net.model(output_of(net)), {"x": 100.0}, [net.inputs()], magnitudes=frozenset({"x"}))
    assert found == {"x": ObservedRange(float(np.abs(net.inputs()).max()), True)}


@pytest.mark.parametrize(
    ("ymax", "log2"), [(0.0, None), (1e-30, None), (1.0, 0), (1.001, 1), (0.5, -1), (0.49, -1), (6, 3)]
)
def test_log2_ymax(ymax: float, log2: int | None) -> None:
    assert ObservedRange(ymax, False).log2_ymax() == log2


def test_default_percentile() -> None:
    assert [default_percentile(bits) for bits in (8, 4)] == [99.99, 99.9]
    widths = [default_percentile(bits) for bits in range(2, 9)]
    assert widths == sorted(set(widths))


def test_data_that_cannot_be_used() -> None:
    net = network()
    model = net.model(output_of(net))
    bad = net.inputs()
    bad[3, 0, 0, 0] = np.nan
    for batches, message in (
        ([bad], "NaN or infinite"),
        ([], "no batch"),
        ([net.inputs()[:, :2]], r"takes float32 \["),
    ):
        with pytest.raises(DataError, match=message):
            observe(model, {"r_y": 99.0}, batches, magnitudes=frozenset())


def test_a_network_that_overflows() -> None:
    net = Network(4)
    weight = net.constant(np.full((4, 4), 1e30, np.float32))
    y = net.op("Gemm", net.op("Gemm", "x", weight), weight)
    with pytest.raises(ModelError, match=f"tensor '{y}' overflows float32"):
        observe(net.model(y), {y: 100.0}, [net.inputs() + 5], magnitudes=frozenset({y}))


def test_a_few_values_that_overflow_are_enough() -> None:
    """The percentile lies far below them, and would pass over them."""
    net = Network(4)
    weight = net.constant(np.diag(np.float32([1e38, 1, 1, 1])))
    y = net.op("Gemm", "x", weight)
    inputs = np.ones((1000, 4), np.float32)
    inputs[7, 0] = 1e3
    with pytest.raises(ModelError, match=f"tensor '{y}' overflows float32"):
        observe(net.model(y), {y: 50.0}, [inputs], magnitudes=frozenset())
    with pytest.raises(ModelError, match=rf"tensor '{y}' reaches 1e\+38 on the calibration data, expected less than"):
        observe(net.model(y), {y: 50.0}, [inputs[:5]], magnitudes=frozenset({y}))
