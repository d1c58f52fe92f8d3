"""`finetune --diagnose` of low-bit training, and the page about it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import qpipe
from qpipe.ir.files.metadata import get_object
from support.zoo.digits import PREPROCESS

RUN: dict[str, Any] = {
    "arithmetic": "mls", "element": (2, 1), "epochs": 1, "lr": 0.05, "batch_size": 128, "flip": False,
    "preprocess": PREPROCESS,
}  # fmt: skip


def constants(model: ir.Model) -> dict[str, np.ndarray]:
    values = model.graph.initializers.items()
    return {name: value.const_value.numpy() for name, value in values if value.const_value is not None}


@pytest.fixture(scope="module")
def low(stages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("low") / "low.onnx"
    qpipe.finetune(stages / "net.onnx", "digits", path, diagnose=True, **RUN)
    return path


def test_looking_changes_no_bit_of_the_network(stages: Path, low: Path) -> None:
    alone = qpipe.finetune(stages / "net.onnx", "digits", evaluate=False, **RUN)
    looked_at = constants(ir.load(low))
    assert all(np.array_equal(values, looked_at[name]) for name, values in constants(alone).items())


def test_the_record_tells_of_the_layers_that_train_low_bit(low: Path) -> None:
    record = get_object(ir.load(low), "training")
    assert record is not None
    found = record["diagnostics"]["low_bit"]
    assert found["layers"] == record["diagnostics"]["layers"][1:-1]
    assert (found["updates"][0], len(found["updates"])) == (1, 5)
    # Of one tensor in all formats: with groups of its own kind none errs more, and more exponents err less.
    for role in ("weight", "activation", "error"):
        none, _, _, nc, *exponents = [row[0] for row in found["relative_error"][role][-1]]
        assert nc < none
        assert none > exponents[0] > exponents[1] > exponents[2]
        assert nc > exponents[3] > exponents[4] > exponents[5]


def test_the_page_draws_it(low: Path, stages: Path) -> None:
    page = qpipe.report([low, stages / "tuned.qdq.onnx"])
    assert "Low-bit operands" in page.html
    assert [run["kind"] for run in page.to_json()["runs"]] == ["float", "QDQ, trainable"]
