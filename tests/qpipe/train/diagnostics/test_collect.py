import json
from typing import Any

import pytest

from qpipe.train.diagnostics.collect import Diagnostics
from qpipe.train.diagnostics.make import make_diagnostics
from qpipe.train.executor import Executor
from support.quantize import quantized
from support.training import SETTINGS, assert_same, bright_images, run_updates, state_of
from support.zoo.residual import residual_network

LAYERS = ["Conv_c1", "Conv_c2", "Gemm_y"]
ACTIVATIONS = ["input", "Conv_c1", "Conv_c2", "Add_a", "GlobalAveragePool_p", "Flatten_f"]


def start() -> tuple[Executor, Diagnostics]:
    executor = Executor(quantized(residual_network(), bits=4), batch_norm="batch")
    return executor, make_diagnostics(executor, bright_images(), SETTINGS)


@pytest.fixture(scope="module")
def observed() -> tuple[Executor, dict[str, Any]]:
    executor, diagnostics = start()
    run_updates(executor, range(1, 13), diagnostics)
    return executor, diagnostics.result()


def test_the_result_is_plain_and_complete(observed: tuple[Executor, dict[str, Any]]) -> None:
    _, result = observed
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["layers"] == LAYERS
    assert result["activations"] == ACTIVATIONS
    assert result["weight_bits"] == [8, 4, 8]
    for name in ("sqnr_before", "sqnr_after"):
        assert len(result[name]["weight"]) == len(result["layers"])
        assert len(result[name]["activation"]) == len(result["activations"]) == len(result["activation_bits"])
    assert result["sqnr_before"] != result["sqnr_after"]
    assert result["step_updates"] == [7, 12]
    assert len(result["step_cosine"]) == len(result["neuron_cosine"]["layers"]) == 3


def test_looking_changes_no_weight(observed: tuple[Executor, dict[str, Any]]) -> None:
    alone, _ = start()
    run_updates(alone, range(1, 13))
    assert_same(state_of(observed[0]), state_of(alone))


def test_a_resumed_run_sees_what_a_whole_one_does(observed: tuple[Executor, dict[str, Any]]) -> None:
    executor, first = start()
    run_updates(executor, range(1, 6), first)
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    resumed, second = start()
    resumed.load_state_dict(executor.state_dict())
    second.load_state(state)
    run_updates(resumed, range(6, 13), second)
    assert second.result() == observed[1]
