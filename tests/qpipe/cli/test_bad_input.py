"""Whatever is wrong with the input: one line that names it, exit status 2, and nothing half-written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from digits_model import digits_model
from onnx import helper, numpy_helper
from PIL import Image

from qpipe.cli.main import main

CALIBRATE = "calibrate {model} --data digits -o out.onnx"
ON_DATA = "calibrate net.onnx --data {data} -o out.onnx"
FINETUNE = "finetune net.qdq.onnx --data {data} -o out.onnx --batch-size 4 --no-evaluate"
VALIDATE = "validate net.onnx net.int8.onnx --data {data}"


@pytest.fixture
def here(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the small network at every stage."""
    for file in files.glob("*.onnx"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Run a command that must fail; its one line, after a look at what it left behind."""

    def run(words: str) -> str:
        before = sorted(path.relative_to(here) for path in here.rglob("*"))
        assert main(words.split()) == 2
        captured = capsys.readouterr()
        assert sorted(path.relative_to(here) for path in here.rglob("*")) == before, "something was left behind"
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert [line for line in lines if line.startswith("qpipe: error: ")] == lines[-1:]
        assert "Traceback" not in captured.err
        return lines[-1].removeprefix("qpipe: error: ")

    return run


def save(model: onnx.ModelProto) -> None:
    onnx.save_model(model, "bad.onnx")


def truncated() -> None:
    content = Path("net.onnx").read_bytes()
    Path("bad.onnx").write_bytes(content[: len(content) // 2])


def without_shape() -> None:
    model = digits_model()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    save(model)


def with_weight(change: Callable[[np.ndarray], Any]) -> Callable[[], None]:
    def make() -> None:
        model = digits_model()
        tensor = next(t for t in model.graph.initializer if t.name == "w2")
        array = numpy_helper.to_array(tensor).copy()
        change(array)
        tensor.CopyFrom(numpy_helper.from_array(array, "w2"))
        save(model)

    return make


def with_external_data(location: str) -> Callable[[], None]:
    def make() -> None:
        model = digits_model()
        tensor = next(t for t in model.graph.initializer if t.name == "w2")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        Path("bad.onnx").write_bytes(model.SerializeToString())

    return make


def two_inputs() -> None:
    model = digits_model()
    model.graph.input.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8]))
    model.graph.node[0].input[0] = "both"
    model.graph.node.insert(0, helper.make_node("Add", ["x", "z"], ["both"], name="join"))
    save(model)


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "truncated": (truncated, "bad.onnx: not an ONNX model, or truncated ("),
    "text": (lambda: Path("bad.onnx").write_text("hello"), "bad.onnx: not an ONNX model"),
    "empty": (lambda: Path("bad.onnx").write_bytes(b""), "bad.onnx: the file is empty"),
    "missing": (lambda: None, "bad.onnx: no such file"),
    "folder": (lambda: Path("bad.onnx").mkdir(), "bad.onnx: can't be read: Is a directory"),
    "no shape": (without_shape, "bad.onnx: input 'x' has no shape; export the model with its input shape"),
    "open size": (
        lambda: save(digits_model(shape=("batch", 1, "height", 8))),
        "bad.onnx: input 'x': dimension 2 is 'height', expected a fixed number",
    ),
    "NaN weight": (
        with_weight(lambda w: w.__setitem__((0, 0, 0, 0), np.nan)),
        "bad.onnx: initializer 'w2' contains NaN, expected finite weights",
    ),
    "infinite weight": (
        with_weight(lambda w: w.__setitem__((0, 0, 0, 0), np.inf)),
        "bad.onnx: initializer 'w2' contains infinite values, expected finite weights",
    ),
    "data outside": (with_external_data("../../secret"), "bad.onnx: external data of 'w2' point to '../../secret'"),
    "data missing": (with_external_data("weights.bin"), "bad.onnx: external data of 'w2': no such file 'weights.bin'"),
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize(
    "words",
    [
        CALIBRATE,
        "inspect {model}",
        "validate net.onnx {model} --data digits",
        "bench {model}",
        "finetune {model} --data digits -o out.onnx",
        "export {model} -o out.onnx",
    ],
    ids=lambda words: words.split()[0],
)
def test_models(case: str, words: str, refused: Callable[[str], str]) -> None:
    make, message = MODELS[case]
    make()
    assert refused(words.format(model="bad.onnx")).startswith(message)


def test_nodes_without_integer_form_are_named_all_at_once(refused: Callable[[str], str]) -> None:
    nodes = [
        helper.make_node("Sigmoid", ["block"], ["s"], name="squash"),
        helper.make_node("Mul", ["block", "s"], ["between"], name="gate"),
    ]
    save(digits_model(between=nodes))
    message = refused(CALIBRATE.format(model="bad.onnx"))
    assert message.startswith("no integer form, with layers after it: Sigmoid 'squash', Mul 'gate'; `qpipe inspect`")


def test_two_inputs(refused: Callable[[str], str]) -> None:
    two_inputs()
    assert "2 inputs, expected 1" in refused(CALIBRATE.format(model="bad.onnx"))
    assert "inputs are 'x', 'z'; expected exactly one" in refused("bench bad.onnx")


def test_the_wrong_stage(refused: Callable[[str], str]) -> None:
    for words in ("finetune net.onnx --data digits -o out.onnx", "export net.onnx -o out.onnx"):
        assert refused(words).endswith("run `qpipe calibrate` first")
    for words in (
        "finetune net.int8.onnx --data digits -o out.onnx",
        "export net.int8.onnx -o out.onnx",
        "calibrate net.qdq.onnx --data digits -o out.onnx",
        "calibrate net.int8.onnx --data digits -o out.onnx",
    ):
        assert refused(words)


def images(**arrays: np.ndarray) -> None:
    np.savez("bad.npz", **arrays)  # type: ignore[arg-type]


def floats(value: float) -> Callable[[], None]:
    def make() -> None:
        x = np.zeros((4, 8, 8, 1), np.float32)
        x[2, 1, 1, 0] = value
        images(x=x, labels=np.zeros(4, np.int64))

    return make


def pictures(*names: str, size: tuple[int, int] = (8, 8)) -> None:
    for name in names:
        path = Path("bad") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size).save(path)


def unreadable_picture() -> None:
    pictures("a/1.png", "b/2.png")
    Path("bad/b/2.png").write_bytes(b"no image")


def empty_class() -> None:
    pictures("a/1.png")
    Path("bad/b").mkdir()


PIXELS = np.zeros((4, 8, 8, 1), np.uint8)
LABELS = np.zeros(4, np.int64)
DATA: dict[str, tuple[Callable[[], Any], str, str]] = {
    "missing": (lambda: None, "bad.npz", "data 'bad.npz' don't exist: expected a folder"),
    "no npz": (lambda: Path("bad.npz").write_text("hello"), "bad.npz", "'bad.npz' is no .npz file, or a truncated one"),
    "other keys": (lambda: images(pictures=PIXELS), "bad.npz", "data 'bad.npz': expected 'images' (or 'x')"),
    "other channels": (
        lambda: images(images=np.zeros((4, 8, 8, 3), np.uint8), labels=LABELS),
        "bad.npz",
        "data 'bad.npz': inputs have shape [N, 3, 8, 8], the model expects [N, 1, 8, 8]",
    ),
    "other size": (
        lambda: images(images=np.zeros((4, 9, 9, 1), np.uint8), labels=LABELS),
        "bad.npz",
        "data 'bad.npz': inputs have shape [N, 1, 9, 9], the model expects [N, 1, 8, 8]; set the",
    ),
    "labels missing": (lambda: images(images=PIXELS, labels=LABELS[:3]), "bad.npz", "bad.npz: 3 labels for 4 samples"),
    "labels below": (lambda: images(images=PIXELS, labels=LABELS - 1), "bad.npz", "bad.npz: label 0 is -1, expected 0"),
    "NaN": (floats(np.nan), "bad.npz", "bad.npz: 'x': sample 2 has the value nan at [1, 1, 0], expected finite"),
    "infinite": (floats(np.inf), "bad.npz", "bad.npz: 'x': sample 2 has the value inf at [1, 1, 0], expected finite"),
    "pickled": (
        lambda: images(images=np.array([{}], object), labels=LABELS),
        "bad.npz",
        "data 'bad.npz': 'images' can't be read: it holds pickled Python objects, which qpipe never loads",
    ),
    "empty folder": (lambda: Path("bad").mkdir(), "bad", ""),
    "empty class": (empty_class, "bad", "class folder 'bad/b' holds no images"),
    "no image": (unreadable_picture, "bad", ""),
    "no factory": (lambda: None, "no_such_module:make", "data 'no_such_module:make': no module 'no_such_module'"),
}


@pytest.mark.parametrize("case", DATA)
@pytest.mark.parametrize("words", [ON_DATA, FINETUNE, VALIDATE], ids=lambda words: words.split()[0])
def test_data(case: str, words: str, refused: Callable[[str], str]) -> None:
    make, data, message = DATA[case]
    make()
    found = refused(words.format(data=data) + " --color GRAY" * (data == "bad"))
    assert found.startswith(message)
    assert data in found


def test_labels_that_no_class_has(refused: Callable[[str], str]) -> None:
    images(images=PIXELS, labels=np.array([0, 1, 10, 3]))
    assert refused(FINETUNE.format(data="bad.npz")) == "bad.npz: label 10, but the network has 10 classes"
    assert "labels go from 0 to 10, but net.onnx has 10 classes" in refused(VALIDATE.format(data="bad.npz"))


def test_an_unlabelled_folder_cannot_be_trained_on(refused: Callable[[str], str]) -> None:
    pictures("1.png", "2.png")
    assert "no labels" in refused(FINETUNE.format(data="bad") + " --color GRAY")


@pytest.mark.parametrize(
    "words",
    [
        "calibrate net.onnx --data digits --batches 1",
        "finetune net.qdq.onnx --data digits --no-evaluate",
        "export net.qdq.onnx",
    ],
    ids=lambda words: words.split()[0],
)
def test_outputs_that_cannot_be_written(
    words: str, refused: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Said before any work is done, and so before the data turn out to be missing.
    early = words.replace("digits", "absent.npz")
    assert refused(f"{early} -o absent/out.onnx") == "absent/out.onnx: the folder 'absent' does not exist"
    Path("folder").mkdir()
    assert refused(f"{early} -o folder") == "folder: is a folder, expected the name of a file to write"

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    assert refused(f"{words} -o out.onnx") == "out.onnx: can't be written: No space left on device"


RECIPE = """
output = "out"
[model]
path = "net.onnx"
[data]
path = "digits"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE + "[calibrate]\nbatchs = 5\n", "bad.toml: [calibrate] batchs: unknown key, did you mean 'batches'?"),
        (RECIPE.replace("[data]", "[dta]"), "bad.toml: "),
        (RECIPE + "[calibrate]\nweight_bits = 3\n", "bad.toml: [calibrate] weight_bits: 3, expected 4 or 8"),
        ("output = ", "bad.toml: "),
    ],
    ids=["key", "table", "value", "syntax"],
)
def test_recipes_with_a_typo(text: str, message: str, refused: Callable[[str], str]) -> None:
    Path("bad.toml").write_text(text)
    assert refused("run bad.toml").startswith(message)


def test_a_preprocessing_that_does_not_fit(refused: Callable[[str], str]) -> None:
    words = "calibrate net.onnx --data digits -o out.onnx"
    assert "mean has 3 values" in refused(f"{words} --mean 0.1,0.2,0.3")
    assert "std" in refused(f"{words} --std 0")
