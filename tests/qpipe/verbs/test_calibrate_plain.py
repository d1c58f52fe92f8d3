"""Skips go before anything is calibrated, and what carries them keeps its weight at few bits."""

from pathlib import Path
from typing import Any

import pytest

import qpipe
from qpipe.errors import QpipeError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import get_provenance
from qpipe.ir.graph.residual import find_blocks
from qpipe.ir.graph.stripped_blocks import stripped_blocks


def test_skips_go_before_calibration(stages: Path) -> None:
    """Without training the network is a little worse, and not chance; it goes on as a plain one."""
    plain = qpipe.calibrate(stages / "net.onnx", "digits", plain=True)
    assert not find_blocks(plain.graph)
    assert stripped_blocks(plain)
    rows = qpipe.validate([stages / "net.onnx", qpipe.export(plain, format="qdq", plain=True)], "digits").rows
    before, after = (row.top1 for row in rows)
    assert before is not None
    assert after is not None
    assert before - 0.1 < after
    with pytest.raises(QpipeError, match=r"blocks: 'layer1', but without effect, expected it together with plain"):
        qpipe.calibrate(stages / "net.onnx", "digits", blocks="layer1")
    with pytest.raises(QpipeError, match=r"net\.onnx: blocks 'nothing': matches no residual block"):
        qpipe.calibrate(stages / "net.onnx", "digits", plain=True, blocks="nothing")


def test_weights_beside_what_carries_a_skip_are_fitted_at_any_width(stages: Path) -> None:
    """Rounded to the nearest, small ones have no level left beside a large one."""
    network = load_model(stages / "tuned.qdq.onnx")
    options: Any = {"plain": True, "strip": "exact", "weight_bits": 3, "batches": 2}
    fitted, told = (qpipe.calibrate(network, "digits", **options, **more) for more in ({}, {"fit_weights": False}))
    # The file itself was fitted once, at 8 bits.
    assert [[entry.name for entry in get_provenance(m)].count("fit-weights") for m in (fitted, told)] == [2, 1]
    exported = [qpipe.export(model, plain=True) for model in (fitted, told)]
    rows = qpipe.validate([stages / "tuned.qdq.onnx", *exported], "digits").rows
    _, after, before = (row.agreement for row in rows)
    assert before is not None
    assert after is not None
    assert after > before
