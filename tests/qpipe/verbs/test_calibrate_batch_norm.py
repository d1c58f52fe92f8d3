"""What calibration does to BatchNormalizations: one that was folded comes back, and its channels are rescaled."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import qpipe
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import get_json
from qpipe.nodes import require_constant
from support.zoo.digits import digits_model

IMAGES = np.random.default_rng(0).normal(size=(40, 1, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("restore", [True, False])
def test_a_folded_batch_normalization_is_put_back(restore: bool) -> None:
    """conv3 has a bias; conv1 and conv2 have their own, and the last layer keeps its bias."""
    model = qpipe.calibrate(digits_model(), IMAGES, restore_batch_norm=restore)
    assert sum(node.op_type == "BatchNormalization" for node in model.graph) == 2 + restore
    passes = [entry["pass"] for entry in get_json(model, "provenance")]  # type: ignore[index,call-overload,union-attr]
    assert ("restore-batch-norm" in passes) == restore


def test_channels_can_stay_as_they_are() -> None:
    """The paper's rule: the BatchNormalizations keep the float network's statistics."""

    def variances(model: ir.Model) -> list[np.ndarray]:
        norms = [node for node in model.graph if node.op_type == "BatchNormalization"]
        return [require_constant(node, 4, "variance") for node in norms]

    plain: dict[str, Any] = {"restore_batch_norm": False, "activation_rounding": "ceil"}
    kept = qpipe.calibrate(digits_model(), IMAGES, rescale_channels=False, **plain)
    passes = {entry["pass"] for entry in get_json(kept, "provenance")}  # type: ignore[index,call-overload,union-attr]
    assert not passes & {"rescale-channels", "fit-weights"}
    given = variances(load_model(digits_model()))
    assert given
    assert all(np.array_equal(a, b) for a, b in zip(given, variances(kept), strict=True))
    moved = variances(qpipe.calibrate(digits_model(), IMAGES, **plain))
    assert not all(np.array_equal(a, b) for a, b in zip(given, moved, strict=True))
