import json

from qpipe.train.diagnostics.make import make_diagnostics
from qpipe.train.executor import Executor
from support.training import bright_images, run_updates
from support.zoo.residual import residual_network


def test_a_float_network_has_no_noise_of_quantization() -> None:
    executor = Executor(residual_network(), batch_norm="batch")
    diagnostics = make_diagnostics(executor, bright_images())
    run_updates(executor, range(1, 4), diagnostics)
    found = diagnostics.result()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["weight_bits"] == [None, None, None]
    assert found["activations"] == []
    assert len(found["neuron_cosine"]["layers"]) == 3
    assert not {"step_cosine", "sqnr_before"} & found.keys()
