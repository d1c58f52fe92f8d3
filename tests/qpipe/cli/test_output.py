import json
import logging
import sys
import warnings

import onnx_ir as ir
import pytest

from qpipe.cli.output import cell, emit, metadata, print_table, working
from qpipe.progress import step


def test_json_is_one_object_and_the_tables_stay_away(capsys: pytest.CaptureFixture[str]) -> None:
    emit(True, {"a": (1, 2), "b": float("nan")}, lambda: print("table"))
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": [1, 2], "b": None}
    assert out.count("\n") == 1


def test_people_get_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    emit(False, {"a": 1}, lambda: print("table"))
    assert capsys.readouterr().out == "table\n"


def test_progress_and_prints_of_libraries_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with working(), step("a stage"):
        print("a library's note", file=sys.stdout)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "a stage" in captured.err
    assert "a library's note" in captured.err


def test_what_onnx_ir_logs_stays_away(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    with working():
        logging.getLogger("onnx_ir.serde").warning("Input 'w' cannot be found in any scope")
    logger.setLevel(level)
    assert caplog.records == []


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with working():
        warnings.warn("tensor 'x' was zero\n  in all of the data", stacklevel=1)
    assert capsys.readouterr().err == "qpipe: warning: tensor 'x' was zero in all of the data\n"


@pytest.mark.filterwarnings("default")
def test_of_several_processes_the_main_one_alone_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        with working(), step("a stage"):
            warnings.warn("a warning", stacklevel=1)
        emit(False, {}, lambda: print("result"))
        emit(True, {}, lambda: print("result"))
        shown.append(capsys.readouterr())
    assert shown[0].out == "result\n{}\n"
    assert "a stage" in shown[0].err
    assert "a warning" in shown[0].err
    assert shown[1] == ("", "")


def test_a_table_has_every_key_as_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("title", [{"name": "a [x]", "top1": 91.5}, {"name": "b", "largest_shift": 16}])
    out = capsys.readouterr().out
    for word in ("title", "name", "top1", "largest shift", "a [x]", "91.5", "16", "-"):
        assert word in out


def test_a_column_of_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("title", [{"name": "a", "size": 1_108_429}, {"name": "b", "size": 640}, {"name": "c", "size": None}])
    assert [line.split()[-2] for line in capsys.readouterr().out.splitlines()[4:-1]] == ["MB", "bytes", "-"]


def test_no_rows_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("title", [])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        ([1, 2], "1, 2"),
        ({"a": 1}, "a 1"),
        ("[b]", "[b]"),
    ],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text  # type: ignore[arg-type]


def test_metadata_are_those_of_qpipe_parsed() -> None:
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    model.metadata_props.update({"qpipe.preprocess": '{"mean": [0.5]}', "qpipe.note": "no json", "other": "1"})
    assert metadata(model) == {"preprocess": {"mean": [0.5]}, "note": "no json"}
