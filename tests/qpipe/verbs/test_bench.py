from pathlib import Path

import numpy as np
import pytest

import qpipe
from qpipe.errors import ModelError, RecipeError
from qpipe.runtime import cpu


def test_rows_are_ratios_to_the_first_model_at_each_batch_size(stages: Path) -> None:
    files = [str(stages / file) for file in ("net.onnx", "tuned.qdq.onnx", "net.int8.onnx")]
    report = qpipe.bench(files, batch_sizes=(1, 3), repeats=3, threads=1)
    assert (report.cpu, report.threads) == (cpu.describe(), 1)
    assert [(row.name, row.batch_size) for row in report.rows] == [(file, size) for size in (1, 3) for file in files]
    assert [row.size for row in report.rows] == [Path(file).stat().st_size for file in files] * 2
    assert [row.kind for row in report.rows[:3]] == ["float", "QDQ, trainable", "qoperator"]
    for index, row in enumerate(report.rows):
        first = report.rows[index // 3 * 3]
        assert 0 < row.minimum_ms <= row.median_ms
        assert row.speedup == pytest.approx(first.median_ms / row.median_ms)
        assert row.memory_ratio == pytest.approx(row.peak_mib / first.peak_mib)
    assert report.rows[0].speedup == report.rows[0].memory_ratio == 1
    assert report.to_json()["rows"][0]["batch_size"] == 1


def test_models_in_memory(stages: Path) -> None:
    qdq = qpipe.calibrate(stages / "net.onnx", np.zeros((4, 1, 8, 8), np.float32) + 0.5, batches=1)
    (row,) = qpipe.bench([qdq], repeats=1).rows
    assert (row.name, row.kind, row.size) == ("model 1", "QDQ, trainable", None)
    assert row.peak_mib > 0


def test_what_cannot_be_measured(stages: Path) -> None:
    with pytest.raises(ModelError, match="no models were given"):
        qpipe.bench([])
    with pytest.raises(RecipeError, match="expected numbers from 1"):
        qpipe.bench([stages / "net.onnx"], batch_sizes=(0,))
