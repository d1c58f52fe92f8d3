"""The keyword transformer's tool: what is trained, what it writes, and that nothing of it stays float."""

from pathlib import Path

import keyword_transformer
import numpy as np
import pytest
import torch

import qpipe
from qpipe.verbs.inspect import ISLAND

SHAPE = (keyword_transformer.FRAMES, keyword_transformer.FEATURES)


def test_augmented_samples_are_shifted_and_hidden() -> None:
    torch.manual_seed(0)
    x = torch.arange(1.0, SHAPE[0] + 1)[None, :, None].expand(200, *SHAPE)
    found = keyword_transformer.augmented(x).mean(-1)
    hidden = (found.abs() < 0.5).sum(1)
    assert hidden.max() <= 8
    assert hidden.max() > 1
    shifts = (found - x.mean(-1)).median(1).values
    assert shifts.abs().max() < 6.5
    assert shifts.abs().max() > 4


def test_nothing_stays_float_and_every_export_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller one, so that the gate has less to compare."""
    monkeypatch.setattr(keyword_transformer, "LAYERS", 1)
    monkeypatch.setattr(keyword_transformer, "FRAMES", 9)
    x = np.random.default_rng(0).standard_normal((64, 9, SHAPE[1])).astype(np.float32)
    network = keyword_transformer.train(x, np.arange(64) % keyword_transformer.CLASSES, 1, seed=0)
    path = tmp_path / "float.onnx"
    keyword_transformer.write(network, path)
    roles = {node.role for node in qpipe.inspect(path).nodes}
    assert ISLAND not in roles
    data = {"x": x, "labels": np.zeros(64, np.int64)}
    calibrated = qpipe.calibrate(path, data, batches=1)
    expected = keyword_transformer.logits_of(qpipe.export(calibrated, format="qdq"), x)
    rows = keyword_transformer.exports(calibrated, data, x, expected)
    assert [row["equal"] for row in rows] == ["True"] * 3
    assert rows[-1]["float tensors inside"] == 0
