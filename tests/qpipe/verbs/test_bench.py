import re
from pathlib import Path

import numpy as np
import pytest

import qpipe
from qpipe.errors import DataError, ModelError, OutputError, RecipeError
from qpipe.runtime.cpu import this_cpu
from support.networks import float_model, parse
from support.zoo.residual import residual_network


def test_rows_are_ratios_to_the_first_model_at_each_batch_size(stages: Path) -> None:
    files = [str(stages / file) for file in ("net.onnx", "tuned.qdq.onnx", "net.int8.onnx")]
    report = qpipe.bench(files, batch_sizes=(1, 3), repeats=3, threads=1)
    assert (report.cpu, report.threads) == (this_cpu().describe(), 1)
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
    assert [row.top1 for row in report.rows] == [None] * 6
    assert (report.images, report.notes) == (None, ())


def test_a_batch_that_the_file_fixes_needs_no_words() -> None:
    fixed = parse("(float[4,3,8,8] x) => (float[4,3,8,8] y) { y = Relu(x) }")
    anyhow = float_model("any", (3, 8, 8), ["y = Relu(x)"])
    assert [row.batch_size for row in qpipe.bench([anyhow, fixed], repeats=1).rows] == [4, 4]
    assert [row.batch_size for row in qpipe.bench([anyhow], repeats=1).rows] == [1]
    other = parse("(float[2,3,8,8] x) => (float[2,3,8,8] y) { y = Relu(x) }")
    with pytest.raises(ModelError, match="model 2: takes batches of 2, not of 4"):
        qpipe.bench([fixed, other], repeats=1)


def test_a_bound_in_seconds_is_told_where_it_left_runs_out() -> None:
    report = qpipe.bench([float_model("plain", (3, 8, 8), ["y = Relu(x)"])], repeats=10**9, seconds=0.01)
    (note,) = report.notes
    assert re.fullmatch(r"model 1, batch 1: \d+ of 1000000000 runs were timed, after 0.01 seconds none was begun", note)


def test_activations_as_ratios_to_the_first_model() -> None:
    residual, nodes = residual_network(), ["c1 = Relu(x)", "c2 = Relu(c1)", "y = Relu(c2)"]
    plain = float_model("plain", (3, 8, 8), nodes)
    rows = qpipe.bench([residual, plain], batch_sizes=(1, 2), repeats=1).rows
    # In the block, where the skip of 16 channels waits: three tensors of it.
    assert [row.activation_kib for row in rows] == [12, 1.5, 24, 3]
    assert [row.activation_ratio for row in rows] == [1, 0.125, 1, 0.125]
    assert [row.activation_node for row in rows] == ["BatchNormalization 'n2'", "Relu 'c1'"] * 2


def test_activations_of_unknown_size() -> None:
    unknown = float_model("unknown", (3, 8, 8), ["z = NonZero(x)", "y = Cast<to=1>(z)"])
    rows = qpipe.bench([unknown, residual_network()], repeats=1).rows
    assert [(row.activation_kib, row.activation_ratio) for row in rows] == [(None, None), (12, None)]
    assert rows[0].activation_node is None


def test_top1_is_that_of_validate(stages: Path) -> None:
    files = [stages / file for file in ("net.onnx", "tuned.qdq.onnx", "net.int8.onnx")]
    report = qpipe.bench(files, "digits", batch_sizes=(1, 2), repeats=1, split="train", limit=70)
    expected = [row.top1 for row in qpipe.validate(files, "digits", split="train", limit=70).rows]
    assert [row.top1 for row in report.rows] == expected * 2
    assert expected[1] is not None
    assert expected[1] > 0.5, "ten classes: it has learned"
    assert report.images == 70


def test_preprocessing_and_notes_are_those_of_the_data(stages: Path) -> None:
    data = (np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, np.int64))
    report = qpipe.bench([stages / "net.onnx"], data, repeats=1)
    assert (report.images, report.notes[1:]) == (4, qpipe.validate([stages / "net.onnx"], data).notes)
    scaled = qpipe.bench([stages / "net.qdq.onnx"], "digits", repeats=1, limit=50, preprocess={"mean": (0.9,)})
    assert scaled.rows[0].top1 != qpipe.bench([stages / "net.qdq.onnx"], "digits", repeats=1, limit=50).rows[0].top1


def words_of(picture: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture.read_text())


def test_a_picture_of_the_first_batch_size(stages: Path, tmp_path: Path) -> None:
    files = [stages / "net.onnx", stages / "net.int8.onnx"]
    picture = tmp_path / "plain.svg"
    report = qpipe.bench(files, "digits", batch_sizes=(2, 1), repeats=1, limit=20, picture=picture)
    words = words_of(picture)
    assert {"net.onnx", "net.int8.onnx", "Top-1 accuracy", "Latency, batch 2", "Peak activation memory"} <= {*words}
    first, second = report.rows[:2]
    assert first.activation_kib is not None
    assert first.size is not None
    assert second.size is not None
    assert f"{first.activation_kib:.3g} KiB" in words
    assert any(word.endswith(f" kB   {second.size / first.size:.2f}×") for word in words)
    assert any(this_cpu().describe() in word for word in words)


def test_a_picture_of_models_in_memory_has_no_sizes(tmp_path: Path) -> None:
    picture = tmp_path / "plain.PNG"
    qpipe.bench([residual_network()], repeats=1, picture=picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["plain.PNG"]
    picture = tmp_path / "plain.svg"
    qpipe.bench([residual_network()], repeats=1, picture=picture)
    assert not {"File size", "Top-1 accuracy"} & {*words_of(picture)}


def test_files_of_one_name_get_their_folders(stages: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "net.onnx"
    other.parent.mkdir()
    other.write_bytes((stages / "net.onnx").read_bytes())
    picture = tmp_path / "two.svg"
    qpipe.bench([stages / "net.onnx", other], repeats=1, picture=picture)
    assert words_of(picture)[:2] == [f"{stages.name}/net.onnx", "other/net.onnx"]


@pytest.mark.parametrize("name", ["plain.jpg", "plain", "plain.png.txt"])
def test_a_picture_of_another_kind_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=rf"{re.escape(name)}: a picture, expected the name of a \.png or \.svg file"):
        qpipe.bench([tmp_path / "absent.onnx"], picture=tmp_path / name)


def test_models_in_memory(stages: Path) -> None:
    qdq = qpipe.calibrate(stages / "net.onnx", np.zeros((4, 1, 8, 8), np.float32) + 0.5, batches=1)
    (row,) = qpipe.bench([qdq], repeats=1).rows
    assert (row.name, row.kind, row.size) == ("model 1", "QDQ, trainable", None)
    assert row.peak_mib > 0


def test_what_cannot_be_measured(stages: Path) -> None:
    with pytest.raises(ModelError, match="no models were given"):
        qpipe.bench([])
    with pytest.raises(RecipeError, match="batch_sizes: 0, expected greater than or equal to 1"):
        qpipe.bench([stages / "net.onnx"], batch_sizes=(0,))
    with pytest.raises(RecipeError, match="limit: 5, but no data were given"):
        qpipe.bench([stages / "net.onnx"], limit=5)
    with pytest.raises(OutputError, match="the folder 'absent' does not exist"):
        qpipe.bench([stages / "net.onnx"], picture="absent/plain.png")
    with pytest.raises(DataError):
        qpipe.bench([stages / "net.onnx"], np.zeros((4, 3, 8, 8), np.float32))
