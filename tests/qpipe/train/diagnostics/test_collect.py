import json
from typing import Any

import numpy as np
import pytest
import torch

from qpipe.data import open_data
from qpipe.errors import DataError
from qpipe.train.diagnostics.collect import BATCH_SIZE, IMAGES, Diagnostics, diagnostic_images
from qpipe.train.executor import Executor
from support.quantize import quantized
from support.training import batch_of, run_updates
from support.zoo.residual import residual_network

LAYERS = ["Conv_c1", "Conv_c2", "Gemm_y"]
ACTIVATIONS = ["input", "Conv_c1", "Conv_c2", "Add_a", "GlobalAveragePool_p", "Flatten_f"]
INPUTS = [batch_of(step)[0] for step in range(2)]


def start() -> tuple[Executor, Diagnostics]:
    model = quantized(residual_network(), bits=4)
    return Executor(model, batch_norm="batch"), Diagnostics(INPUTS)


def weights(executor: Executor) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in executor.state_dict().values()]


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
    assert all(torch.equal(a, b) for a, b in zip(weights(observed[0]), weights(alone), strict=True))


def test_a_resumed_run_sees_what_a_whole_one_does(observed: tuple[Executor, dict[str, Any]]) -> None:
    executor, first = start()
    run_updates(executor, range(1, 6), first)
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    resumed, second = start()
    resumed.load_state_dict(executor.state_dict())
    second.load_state(state)
    run_updates(resumed, range(6, 13), second)
    assert second.result() == observed[1]


def test_images_come_in_batches() -> None:
    batches = diagnostic_images(open_data("digits", "train"))
    assert [len(batch) for batch in batches] == [BATCH_SIZE] * (IMAGES // BATCH_SIZE)
    assert all(batch.dtype == torch.float32 for batch in batches)


def test_no_images_is_an_error() -> None:
    class Empty:
        name = "nothing"

        def batches(self, *_: Any, **__: Any) -> list[np.ndarray]:
            return []

    with pytest.raises(DataError, match="nothing: no images"):
        diagnostic_images(Empty())  # type: ignore[arg-type]
