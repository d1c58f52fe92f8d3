import json
from typing import Any

import pytest

from qpipe.settings import FinetuneSettings
from qpipe.train.diagnostics.make import make_diagnostics
from qpipe.train.executor import Executor
from support.quantize import quantized
from support.training import bright_images, run_updates
from support.zoo.residual import residual_network

GRIDS = {"step_cosine", "step_updates", "sqnr_before", "sqnr_after"}


def measured(quantizes: bool, **settings: Any) -> dict[str, Any]:
    """Of a run of two epochs of four batches, in which these eight updates are seen."""
    model = quantized(residual_network()) if quantizes else residual_network()
    executor = Executor(model, batch_norm="batch")
    diagnostics = make_diagnostics(executor, bright_images(), FinetuneSettings(epochs=2, batch_size=16, **settings))
    run_updates(executor, range(1, 9), diagnostics)
    found = diagnostics.result()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert len(found["neuron_cosine"]["layers"]) == 3
    return found


@pytest.mark.parametrize("arithmetic", ["float", "mls"])
def test_of_a_float_network_low_bit_formats_are_measured_instead_of_grids(arithmetic: str) -> None:
    found = measured(quantizes=False, arithmetic=arithmetic)
    assert found["weight_bits"] == [None, None, None]
    assert found["activations"] == []
    assert not GRIDS & found.keys()
    assert found["low_bit"]["layers"] == found["layers"][1:2]
    assert found["low_bit"]["updates"] == [1, 2, 4, 6, 8]


def test_of_a_quantized_network_both_where_it_trains_in_them() -> None:
    assert "low_bit" not in measured(quantizes=True)
    found = measured(quantizes=True, arithmetic="mls", low_bit_ends=True)
    assert found.keys() >= GRIDS
    assert found["low_bit"]["layers"] == found["layers"]
