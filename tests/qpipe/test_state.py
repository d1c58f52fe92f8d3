import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from qpipe.errors import OutputError
from qpipe.state import STATE_FILE, State, fingerprint, finished_stages, stage_key, write_json
from support.networks import build


def model_with_external_weights(folder: Path, values: list[float]) -> Path:
    shape = f"float[{len(values)}]"
    model = build(f"({shape} x) => ({shape} y) {{ y = Add(x, w) }}", w=np.float32(values))
    path = folder / "net.onnx"
    ir.save(model, path, external_data="weights.bin", size_threshold_bytes=0)
    return path


def test_a_finished_stage_is_found_again(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    output.write_text("made")
    State(tmp_path).begin("s", "key", [])
    State(tmp_path).end("s", "key", output, 1.5)
    record = State(tmp_path).finished("s", "key")
    assert record is not None
    assert record.seconds == 1.5


def test_finished_stages_are_listed_in_order(tmp_path: Path) -> None:
    assert finished_stages(tmp_path) == {}
    for name in ("second", "first"):
        (tmp_path / name).write_text(name)
        State(tmp_path).end(name, "key", tmp_path / name, 1.0)
    State(tmp_path).begin("third", "key", [])
    assert {name: stage.output for name, stage in finished_stages(tmp_path).items()} == {
        "second": "second", "first": "first",
    }  # fmt: skip


def test_another_key_a_changed_output_and_a_lost_one_are_not_finished(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    output.write_text("made")
    state = State(tmp_path)
    state.begin("s", "key", [])
    state.end("s", "key", output, 0)
    assert state.finished("s", "other") is None
    assert state.finished("t", "key") is None
    output.write_text("edited")
    assert state.finished("s", "key") is None
    output.unlink()
    assert state.finished("s", "key") is None


def test_a_stage_that_was_begun_again_is_not_finished(tmp_path: Path) -> None:
    output = tmp_path / "out.txt"
    output.write_text("made")
    state = State(tmp_path)
    state.begin("s", "key", [])
    state.end("s", "key", output, 0)
    assert not state.was_begun("s", "key")
    state.begin("s", "other", [])
    assert State(tmp_path).was_begun("s", "other")
    assert not State(tmp_path).was_begun("s", "key")
    assert State(tmp_path).finished("s", "key") is None


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"{}",
    b"5",
    b"\xff",
    b'{"written_by": "another program"}',
    b'{"finished": {}, "begun": {}}',
    b'{"written_by": "qpipe run", "finished": {"s": {}}}',
    b'{"written_by": "qpipe run", "finished": {"s": {"key": 1, "output": [], "output_hash": {}, "seconds": "x"}}}',
    b'{"written_by": "qpipe run", "begun": {"s": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
    b'{"written_by": "qpipe run", "more": 1}',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_record_that_is_damaged_or_somebody_elses_is_refused_and_stays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STATE_FILE).write_bytes(content)
    for read in (State, finished_stages):
        with pytest.raises(OutputError, match=r"^.*state.json: no record of a `qpipe run`, or a damaged one: .+$"):
            read(tmp_path)
    assert (tmp_path / STATE_FILE).read_bytes() == content


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_record_that_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / STATE_FILE)
    with pytest.raises(OutputError, match="is no file"):
        State(tmp_path)


def test_whose_the_files_are_outlives_that_the_stages_are_forgotten(tmp_path: Path) -> None:
    state = State(tmp_path)
    (tmp_path / "a").touch()
    state.begin("s", "key", [tmp_path / "a", tmp_path / "b"])
    state.end("s", "key", tmp_path / "a", 0)
    State(tmp_path).forget()
    again = State(tmp_path)
    assert again.finished("s", "key") is None
    assert [again.made(tmp_path / name) for name in "abc"] == [True, True, False]


def test_a_full_disk_costs_the_record_of_a_stage_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(tmp_path)
    state.begin("s", "key", [])
    (tmp_path / "a").touch()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match=r"state.json: can't be written: No space .*; a rerun does the stage s again"):
        state.end("s", "key", tmp_path / "a", 0)
    with pytest.raises(OutputError, match="No space left"):
        state.begin("t", "key", [])


def test_a_key_depends_on_stage_inputs_and_arguments() -> None:
    key = stage_key("s", {"model": "a"}, {"x": 1})
    assert key == stage_key("s", {"model": "a"}, {"x": 1})
    others = [stage_key("t", {"model": "a"}, {"x": 1}), stage_key("s", {"model": "b"}, {"x": 1})]
    others += [stage_key("s", {"model": "a"}, {"x": 2}), stage_key("s", {"data": "a"}, {"x": 1})]
    assert len({key, *others}) == 5


def test_the_fingerprint_of_a_file_is_its_content(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.write_bytes(b"1")
    assert fingerprint(a) == fingerprint(b)
    b.write_bytes(b"22")
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint(tmp_path / "absent") == "missing"


def test_the_fingerprint_of_a_folder_sees_names_sizes_and_times(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    image = tmp_path / "cat" / "1.png"
    image.write_bytes(b"1")
    first = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == first
    os.utime(image, ns=(0, 0))
    second = fingerprint(tmp_path)
    image.rename(tmp_path / "cat" / "2.png")
    assert len({first, second, fingerprint(tmp_path)}) == 3


def test_the_fingerprint_of_a_model_sees_its_external_weights(tmp_path: Path) -> None:
    path = model_with_external_weights(tmp_path, [1.0, 2.0])
    first = fingerprint(path)
    weights = tmp_path / "weights.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[::-1] + b"\0")
    assert fingerprint(path) != first
    weights.unlink()
    assert fingerprint(path).endswith("missing")


def test_the_fingerprint_of_a_file_that_is_no_model_is_its_content(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"\xff\xff not onnx")
    assert len(fingerprint(path)) == 64


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": 1\n}\n'
    with pytest.raises(OutputError, match=r"no/a.json"):
        write_json(tmp_path / "no" / "a.json", {"x": 1})
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
