import time

import numpy as np
import onnx
import pytest

from qpipe.errors import ModelError, RecipeError
from qpipe.runtime.latency import measure_latency, random_input
from qpipe.runtime.memory import measure_memory, peak_rss
from qpipe.runtime.session import open_session
from support.networks import parse
from support.zoo.linear import linear_model

SMALL, LARGE = linear_model(np.eye(16)), linear_model(np.ones((16, 200_000)))


def test_in_the_order_given_with_ratios_to_the_first():
    latencies = measure_latency([LARGE, SMALL], [1, 4], repeats=7)
    assert [latency.batch_size for latency in latencies] == [1, 1, 4, 4]
    for first, second in (latencies[:2], latencies[2:]):
        assert first.ratio == first.ratio_of_minima == 1.0
        assert second.ratio == first.median / second.median > 2  # 12,500 times the work
        assert second.ratio_of_minima == first.minimum / second.minimum
        assert 0 < second.minimum <= second.median


def test_the_seconds_are_a_bound_and_every_model_is_timed_once():
    model = parse("(float[N,16] x) => (float[N,200000] y) { y = MatMul(x, w) }", w=np.ones((16, 200_000), np.float32))
    began = time.monotonic()
    latencies = measure_latency([model, SMALL], [1, 2], repeats=10**9, seconds=0.1)
    assert time.monotonic() - began < 30  # of a machine that stalls; a billion runs take days
    assert all(1 <= latency.runs < 10**9 for latency in latencies)
    assert [latency.runs for latency in measure_latency([SMALL, SMALL], repeats=10**9, seconds=1e-9)] == [1, 1]
    assert [latency.runs for latency in measure_latency([SMALL], repeats=7)] == [7]


def test_random_input_has_the_models_type_and_shape():
    floats = random_input(open_session(SMALL), 5)["x"]
    assert floats.dtype == np.float32
    assert floats.shape == (5, 16)
    model = parse("(uint8[N,100,100] x) => (uint8[] y) { y = Identity(x) }")
    pixels = random_input(open_session(model), 2)["x"]
    assert pixels.dtype == np.uint8
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_batch_sizes_that_a_model_does_not_take():
    with pytest.raises(ModelError, match="model 'small': takes batches of 3, not of 1"):
        measure_latency([linear_model(np.eye(2), batch=3)], [1])


def test_open_shapes():
    model = parse("(float[N,H] x) => (float[] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match=r"input 'x' is \['N', 'H'\]; expected its sizes, as in --input-shape x=N"):
        measure_latency([model])


@pytest.mark.parametrize("arguments", [{"batch_sizes": [0]}, {"batch_sizes": []}, {"repeats": 0}])
def test_numbers_from_one(arguments):
    with pytest.raises(RecipeError, match="expected numbers from 1"):
        measure_latency([SMALL], **arguments)


def test_no_models():
    with pytest.raises(ModelError, match="no models to measure"):
        measure_latency([])


def test_memory_is_the_models_own(tmp_path):
    onnx.save(SMALL, tmp_path / "small.onnx")
    onnx.save(linear_model(np.ones((2000, 10_000))), tmp_path / "large.onnx")  # 80 MB of weights
    ballast = np.ones(40_000_000, np.float64)  # 320 MB in this process must not count
    small, large = (measure_memory(tmp_path / f"{name}.onnx", 2, threads=1) for name in ("small", "large"))
    assert peak_rss() > ballast.nbytes
    assert large.model > small.model + 75_000_000
    assert small.total < ballast.nbytes


def test_memory_of_a_model_that_cannot_be_opened(tmp_path):
    (tmp_path / "bad.onnx").write_text("no model")
    with pytest.raises(ModelError, match=r"bad.onnx: onnxruntime can't open it"):
        measure_memory(tmp_path / "bad.onnx")


@pytest.mark.parametrize("batch_size", [10**12, 2**62, 10**30])
def test_a_batch_that_no_memory_holds(batch_size):
    with pytest.raises(
        RecipeError, match=rf"^batch size {batch_size}: an input takes [\d,]+ bytes, of [\d,]+ that are"
    ):
        measure_latency([SMALL], [batch_size])
