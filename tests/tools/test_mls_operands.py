"""The tables say what the record says."""

import json
from pathlib import Path

import pytest
from mls_operands import error_rows, main, order_rows, record_of, share_rows
from results import RESULTS

from qpipe.errors import ModelError
from qpipe.ir.files.metadata import set_json
from qpipe.ir.files.save import save_model
from qpipe.reporting.record import LowBitRecord
from support.report_runs import diagnostics, low_bit, training
from support.zoo.residual import residual_network

FOUND = LowBitRecord.model_validate(low_bit())


def test_errors_are_means_over_what_is_known() -> None:
    """As `low_bit` makes them: 0.4 of the first format, half of it of the second, and so on."""
    rows = error_rows(FOUND)
    assert [row["format"] for row in rows][3:5] == ["⟨0, 3⟩, nc", "⟨1, 3⟩"]
    assert rows[1] == {"format": "⟨0, 3⟩, n"} | {
        f"{role}, {what}": 0.0 if what == "apart" else 0.2
        for role in ("weight", "activation", "error")
        for what in ("first", "last", "apart")
    }
    turned = low_bit()
    turned["relative_error"]["error"][-1][1] = [0.1, 0.4, None]
    row = error_rows(LowBitRecord.model_validate(turned))[1]
    assert [row[f"error, {what}"] for what in ("first", "last", "apart")] == [0.2, 0.25, 0.3]


def test_orders_are_counted_layer_by_layer() -> None:
    """The later a format stands, the less it errs; c stands behind n; the last layer's error is unknown."""
    rows = {row["order"]: (row["weight, last"], row["error, last"], row["layers"]) for row in order_rows(FOUND)}
    assert set(rows.values()) == {(3, 2, 3)}
    turned = low_bit()
    turned["relative_error"]["weight"][-1][3] = [0.9, 0.01, 0.01]
    found = order_rows(LowBitRecord.model_validate(turned))
    assert {row["weight, first"] for row in found} == {3}
    rows = {row["order"]: row["weight, last"] for row in found}
    assert (rows["n below none"], rows["nc below n"], rows["nc below c"]) == (3, 2, 2)
    assert rows["each Ex below the last, no groups"] == 3
    assert rows["each Ex below the last, nc"] == 1


def test_shares_are_percent() -> None:
    shares = low_bit()
    shares["below_half"]["error"] = {**shares["below_half"]["error"], "sample": [[0.0] * 3, [0.5, 1.0, 0.6]]}
    row = share_rows(LowBitRecord.model_validate(shares))[4]
    assert row == {
        "groups": "error, by sample", "mean, %": 70.0, "least, %": 50.0, "most, %": 100.0, "layers over half": 2,
        "layers": 3,
    }  # fmt: skip


def test_files_become_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = residual_network()
    set_json(model, "training", training(diagnostics=diagnostics(low_bit=low_bit())))
    save_model(model, tmp_path / "low.onnx")
    main([tmp_path / "low.onnx"], name="some")
    tables = json.loads((RESULTS / "some.json").read_text(encoding="utf-8"))["tables"]
    assert list(tables)[1] == "low, updates 1 and 50: layers in which an order holds"
    set_json(model, "training", training())
    save_model(model, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=r"other.onnx: no low-bit operand was looked at"):
        record_of(tmp_path / "other.onnx")
