"""finetune with AG, and without skips: from a float network, a QDQ file and one that is plain already."""

import hashlib
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

import qpipe
from qpipe.errors import LoweringError, ModelError, QpipeError, RecipeError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import PLAIN, get_json, get_object
from qpipe.train.diagnostics.collect import Diagnostics
from qpipe.train.executor import Executor
from qpipe.verbs import subject
from support.networks import ops
from support.zoo.digits import digits_model

SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 256, "flip": False, "crop_padding": 0, "evaluate": False}
"""Of 1,000 or so digits: a handful of updates."""


def bytes_of(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def record(model: ir.Model) -> dict[str, Any]:
    found = get_object(model, "training")
    assert found is not None
    return dict(found)


def phases(model: ir.Model) -> list[str]:
    return [phase["phase"] for phase in record(model)["phases"]]


@pytest.fixture(scope="module")
def plain(stages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the verb makes of a QDQ file with a skip, in one command."""
    path = tmp_path_factory.mktemp("plain") / "plain.qdq.onnx"
    qpipe.finetune(stages / "net.qdq.onnx", "digits", path, method="ag", plain=True, **{**SHORT, "evaluate": True})
    return path


def test_from_a_file_with_skips(stages: Path, plain: Path) -> None:
    model = load_model(plain)
    assert "Add" in ops(load_model(stages / "net.qdq.onnx"))
    assert "Add" not in ops(model)
    assert phases(model) == ["quantized, with its skips", "skips stripped", "trained"]
    told = record(model)
    assert told["settings"] | {
        "recipe": "plain", "method": "ag", "fade": 0.0, "teacher": "float", "optimizer": "sgd", "lr": 0.02,
    } == told["settings"]  # fmt: skip
    accuracies = [phase["accuracy"] for phase in told["phases"]]
    assert accuracies[1:] == [told["accuracy_before"], told["accuracy_after"]]
    names = [entry["pass"] for entry in get_json(model, "provenance")]  # type: ignore[index,union-attr,call-overload]
    assert "refit-blocks" in names
    assert names[-1] == "finetune"
    # The figures are those of the files.
    assert qpipe.validate([plain], "digits").rows[0].top1 == accuracies[2]
    assert qpipe.validate([stages / "net.qdq.onnx"], "digits").rows[0].top1 == accuracies[0]
    assert qpipe.validate([plain, qpipe.export(plain)], "digits").rows[1].integers_equal


def test_on_low_bit_products(stages: Path) -> None:
    """All that trains beside the network, and skips that fade, in another arithmetic."""
    beside = {"method": "ag", "plain": True, "joint_distillation": 0.1, "fade": 0.6}
    low_bit = {**SHORT, **beside, "arithmetic": "mls", "element": (2, 1)}
    first, again = (qpipe.finetune(stages / "net.qdq.onnx", "digits", **low_bit) for _ in range(2))
    assert bytes_of(first) == bytes_of(again)
    assert "Add" not in ops(first)
    assert record(first)["settings"]["element"] == [2, 1]
    assert bytes_of(first) != bytes_of(qpipe.finetune(stages / "net.qdq.onnx", "digits", **SHORT, **beside))
    assert qpipe.validate([first, qpipe.export(first)], "digits").rows[1].integers_equal


@pytest.mark.slow
def test_from_a_float_network_in_one_command(stages: Path) -> None:
    found = qpipe.finetune(stages / "net.onnx", "digits", plain=True, **SHORT)
    assert "Add" not in ops(found)
    names = [entry["pass"] for entry in get_json(found, "provenance")]  # type: ignore[index,union-attr,call-overload]
    assert names[:2] == ["refit-blocks", "restore-batch-norm"]
    assert get_json(found, "input_sha256") == hashlib.sha256((stages / "net.onnx").read_bytes()).hexdigest()
    assert names[-1] == "finetune"
    assert [entry["name"] for entry in get_json(found, PLAIN)] == ["add"]  # type: ignore[index,union-attr,call-overload]


def test_a_float_network_that_guesses() -> None:
    """Most often its pixels are normalized otherwise than in its training; as a teacher it knows nothing."""
    message = r"^the float network's top-1 is \d+\.\d\d %, about chance: is the preprocessing that"
    with pytest.warns(UserWarning, match=message):
        qpipe.finetune(digits_model(), "digits", plain=True, **{**SHORT, "evaluate": True})


def test_from_a_plain_file(plain: Path) -> None:
    """It goes on; what needs skips is refused, and so is the float network that it does not hold any more."""
    for options in ({"plain": True}, {"plain": False, "method": "ag"}):
        found = qpipe.finetune(plain, "digits", recipe="ag", **options, **{**SHORT, "evaluate": True})
        assert phases(found) == ["before training", "trained"]
        assert get_json(found, PLAIN) == get_json(load_model(plain), PLAIN)
    with pytest.raises(RecipeError, match=r"^fade: 0\.6, but no skips are stripped in this run, expected 0, or a net"):
        qpipe.finetune(plain, "digits", plain=True, recipe="plain", fade=0.6, **SHORT)
    with pytest.raises(RecipeError, match=r"^teacher: 'float', but this plain network holds none, expected the float"):
        qpipe.finetune(plain, "digits", plain=True, recipe="plain", **SHORT)
    with pytest.raises(RecipeError, match=r"^blocks: 'layer1\.\*', but the network is plain already, expected none$"):
        qpipe.finetune(plain, "digits", plain=True, blocks="layer1.*", **SHORT)
    # Not the recipe `plain`, which has a teacher.
    with pytest.raises(RecipeError, match=r"^temperature: 9\.0, but without effect, expected it together with a teach"):
        qpipe.finetune(plain, "digits", plain=True, temperature=9.0, **SHORT)
    assert record(qpipe.finetune(plain, "digits", plain=True, **SHORT))["settings"]["recipe"] == "faq-8bit"
    with pytest.raises(RecipeError, match=r"^teacher: 'float', but this plain network holds none"):
        qpipe.finetune(plain, "digits", teacher="float", **SHORT)


def test_the_default_recipes(stages: Path) -> None:
    file = stages / "net.qdq.onnx"
    expected = {"faq-8bit": ("sgd", 1e-4, 0.0), "ag": ("adam", 1e-3, 0.0)}
    for method, (recipe, (optimizer, lr, fade)) in zip(("faq", "ag"), expected.items(), strict=True):
        told = record(qpipe.finetune(file, "digits", method=method, **SHORT))["settings"]  # type: ignore[arg-type]
        assert [told[key] for key in ("recipe", "optimizer", "lr", "fade")] == [recipe, optimizer, lr, fade]


def test_ag_leaves_the_skips_where_they_are(stages: Path) -> None:
    found = qpipe.finetune(stages / "net.qdq.onnx", "digits", method="ag", **SHORT)
    faq = qpipe.finetune(stages / "net.qdq.onnx", "digits", recipe="ag", **SHORT)
    assert ops(found) == ops(faq) == ops(load_model(stages / "net.qdq.onnx"))
    assert set(found.graph.initializers) == set(faq.graph.initializers)
    assert bytes_of(found) != bytes_of(faq)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fade": 0.5},
            r"^fade: 0\.5, but no skips are stripped in this run, expected 0, or a network with skips",
        ),
        ({"fade": 0.5, "method": "ag"}, r"^fade: 0\.5, but no skips are stripped"),
    ],
)
def test_a_fade_without_stripping(stages: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        qpipe.finetune(stages / "net.qdq.onnx", "digits", **options, **SHORT)


@pytest.mark.parametrize("name", ["net.qdq.onnx", "net.onnx"])
def test_blocks_that_there_are_not(stages: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused before anything that takes time: a float network is not calibrated."""
    monkeypatch.delattr(subject, "calibrate")
    with pytest.raises(
        LoweringError, match=r"\.onnx: blocks 'layer9\.\*': matches no residual block, expected .* 'add'$"
    ):
        qpipe.finetune(stages / name, "digits", plain=True, blocks="layer9.*", **SHORT)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A QDQ file without residual Adds, whose skips nobody stripped."""
    model = digits_model()
    for node in list(model.graph.node):
        if node.op_type == "Add":
            model.graph.node.remove(node)
    next(node for node in model.graph.node if node.name == "relu2").input[0] = "n2"
    folder = tmp_path_factory.mktemp("straight")
    onnx.save_model(model, folder / "net.onnx")
    qpipe.calibrate(folder / "net.onnx", "digits", folder / "net.qdq.onnx", batches=1)
    return folder / "net.qdq.onnx"


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"plain": True}, LoweringError, r"net\.qdq\.onnx: no residual Add, expected one that joins a skip"),
        (
            {"method": "ag"},
            ModelError,
            r"net\.qdq\.onnx: no residual blocks, and none were stripped, ",
        ),
        (
            {"ssp": True},
            ModelError,
            r"net\.qdq\.onnx: no residual blocks, and none were stripped, ",
        ),
    ],
)
def test_a_network_without_residual_adds(
    straight: Path, options: dict[str, Any], kind: type[QpipeError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        qpipe.finetune(straight, "digits", **options, **SHORT)


def test_a_float_network_that_is_not_to_be_plain(stages: Path) -> None:
    with pytest.raises(ModelError, match=r"net\.onnx: not a quantized model"):
        qpipe.finetune(stages / "net.onnx", "digits", method="ag", **SHORT)


@pytest.mark.slow
def test_a_run_that_goes_on_ends_where_a_whole_one_does(stages: Path, tmp_path: Path) -> None:
    """AG without skips, Adam, a fade, SSP and a teacher: killed within an epoch and resumed, to the byte."""
    beside: dict[str, Any] = {"method": "ag", "ssp": True, "fade": 0.6, "diagnose": True}
    options: dict[str, Any] = {**SHORT, **beside, "plain": True, "epochs": 2}
    whole = qpipe.finetune(stages / "net.qdq.onnx", "digits", **options)
    kept = {"checkpoint": tmp_path / "state", "checkpoint_every": 1}

    class Killed(Exception):  # noqa: N818
        pass

    before_update = Diagnostics.before_update

    def kill(self: Diagnostics, executor: Executor, step: int) -> None:
        before_update(self, executor, step)
        if step == 7:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Diagnostics, "before_update", kill)
        with pytest.raises(Killed):
            qpipe.finetune(stages / "net.qdq.onnx", "digits", **kept, **options)
    resumed = qpipe.finetune(stages / "net.qdq.onnx", "digits", **kept, resume=True, **options)
    assert bytes_of(whole) == bytes_of(resumed)
