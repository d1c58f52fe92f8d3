from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

import qpipe
from passes.shipping.finalize import Finalize
from qpipe.data import Preprocess, open_data
from qpipe.data.subset import hold_out
from qpipe.errors import DataError, ModelError, QpipeError, RecipeError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import get_json, get_object
from qpipe.train.executor import Executor
from support.networks import Network

# Enough to see a change, small enough to be quick.
SHORT: dict[str, Any] = {"lr": 0.02, "flip": False, "evaluate": False}


def bytes_of(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def test_it_learns_and_says_so(stages: Path) -> None:
    tuned = qpipe.finetune(stages / "net.qdq.onnx", "digits", lr=0.05, batch_size=32, flip=False, epochs=2)
    record = get_object(tuned, "training")
    assert record is not None
    epochs = record["epochs"]
    assert isinstance(epochs, list)
    assert [epoch["number"] for epoch in epochs] == [1, 2]  # type: ignore[index,call-overload]
    assert epochs[1]["loss"] < epochs[0]["loss"]  # type: ignore[index,call-overload,operator]
    after = record["accuracy_after"]
    assert after > record["accuracy_before"] + 0.3  # type: ignore[operator]
    # The figure is that of the file that ships.
    assert qpipe.validate([tuned], "digits").rows[0].top1 == after


@pytest.mark.filterwarnings("ignore:.*keep fewer than 2 levels")
def test_a_network_that_gives_more_rows_than_images_is_named(tmp_path: Path) -> None:
    net = Network(1, 8, 8)
    x = net.op("Relu", net.conv(net.op("Concat", "x", "x", axis=0), 1, 4))
    onnx.save(net.proto(net.head(x, 4, classes=10)), tmp_path / "net.onnx")
    qpipe.calibrate(tmp_path / "net.onnx", "digits", tmp_path / "net.qdq.onnx", batches=1)
    with pytest.raises(DataError, match=r"net\.qdq\.onnx: 256 labels for 512 rows, expected one for each"):
        qpipe.finetune(tmp_path / "net.qdq.onnx", "digits", epochs=1)


def test_the_written_file_finalized_is_the_executors_evaluation(stages: Path) -> None:
    model = load_model(stages / "tuned.qdq.onnx")
    executor = Executor(model.clone()).eval()
    Finalize()(model)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    preprocess = Preprocess(mean=(0.3,), std=(0.38,))
    for batch in open_data("digits", "test", preprocess).batches(90):
        (expected,) = session.run(None, {"x": batch.inputs})
        with torch.no_grad():
            found = executor(torch.from_numpy(batch.inputs))[0].numpy()
        np.testing.assert_array_equal(found.astype(np.float32), expected)


def test_one_seed_one_result(stages: Path) -> None:
    first, second, third = (qpipe.finetune(stages / "net.qdq.onnx", "digits", seed=seed, **SHORT) for seed in (0, 0, 1))
    assert bytes_of(first) == bytes_of(second)
    assert bytes_of(first) != bytes_of(third)


def test_a_run_that_goes_on_ends_where_a_whole_one_does(stages: Path, tmp_path: Path) -> None:
    whole = qpipe.finetune(stages / "net.qdq.onnx", "digits", epochs=2, **SHORT)
    checkpoint = tmp_path / "state"
    qpipe.finetune(stages / "net.qdq.onnx", "digits", epochs=1, checkpoint=checkpoint, **SHORT)
    resumed = qpipe.finetune(stages / "net.qdq.onnx", "digits", epochs=2, checkpoint=checkpoint, resume=True, **SHORT)
    assert bytes_of(whole) == bytes_of(resumed)


def _count_batch_norms(model: ir.Model) -> int:
    return sum(node.op_type == "BatchNormalization" for node in model.graph)


@pytest.mark.parametrize("batch_norm", ["running", "batch"])
def test_both_statistics_keep_the_file_trainable_and_exact(stages: Path, batch_norm: Any) -> None:
    tuned = qpipe.finetune(stages / "net.qdq.onnx", "digits", batch_norm=batch_norm, **SHORT)
    assert qpipe.inspect(tuned).kind == "QDQ, trainable"
    before = load_model(stages / "net.qdq.onnx")
    assert _count_batch_norms(tuned) == _count_batch_norms(before) > 0
    assert qpipe.validate([tuned, qpipe.export(tuned)], "digits").rows[0].integers_equal


def test_provenance_says_what_was_run(stages: Path) -> None:
    provenance = get_json(ir.load(stages / "tuned.qdq.onnx"), "provenance")
    assert isinstance(provenance, list)
    last = provenance[-1]
    assert isinstance(last, dict)
    assert last["pass"] == "finetune"
    assert last["arguments"]["lr"] == 0.05  # type: ignore[index,call-overload]
    assert last["arguments"]["flip"] is False  # type: ignore[index,call-overload]


def test_a_named_recipe_with_another_length(stages: Path) -> None:
    tuned = qpipe.finetune(
        stages / "net.qdq.onnx", "digits", recipe="faq-4bit-growing", epochs=3, batch_size=256, flip=False,
        evaluate=False, evaluate_every=2, lr=0.01, precision="bf16", teacher="float",
    )  # fmt: skip
    record = get_object(tuned, "training")
    assert record is not None
    epochs: Any = record["epochs"]
    # 256 doubled at epochs 55, 150 and 160 of 165: 1, 2.7 and 2.9 of 3.
    assert [epoch["batch_size"] for epoch in epochs] == [256, 512, 512]
    assert [epoch["lr"] for epoch in epochs] == pytest.approx([0.01 * 1e-4 ** (epoch / 3) for epoch in range(3)])
    assert [epoch["test_accuracy"] is None for epoch in epochs] == [True, False, False]
    assert record["accuracy_before"] is None
    assert record["accuracy_after"] == epochs[-1]["test_accuracy"]
    settings: Any = record["settings"]
    assert settings["recipe"] == "faq-4bit-growing"
    assert settings["grow_at"] == pytest.approx([1, 150 * 3 / 165, 160 * 3 / 165])
    assert (settings["weight_decay"], settings["teacher"], settings["precision"]) == (1e-4, "float", "bf16")


def test_the_best_epoch_by_images_that_were_held_out(stages: Path) -> None:
    options: dict[str, Any] = {"lr": 0.05, "batch_size": 32, "flip": False, "schedule": "cosine", "warmup": 0.5}
    tuned = qpipe.finetune(
        stages / "net.qdq.onnx", "digits", **options, epochs=3, activation_gradient="ymax", hold_out=0.25
    )
    record: Any = get_object(tuned, "training")
    best = record["best_epoch"]
    assert 1 <= best["number"] <= 3
    assert best["held_out"] > record["accuracy_before"] + 0.3
    # The figure is that of the file that ships, on what was held out.
    _, held = hold_out(open_data("digits", "train"), 0.25, 0)
    (batch,) = held.batches(len(held))
    assert qpipe.validate([tuned], (batch.pixels, batch.labels)).rows[0].top1 == best["held_out"]
    assert qpipe.validate([tuned, qpipe.export(tuned)], "digits").rows[0].integers_equal


def test_what_is_counted_has_the_statistics_that_were_estimated_at_the_end(stages: Path) -> None:
    told = {**SHORT, "evaluate_every": 1, "estimate_statistics": True, "lr": 0.02, "batch_size": 64}
    tuned = qpipe.finetune(stages / "net.qdq.onnx", "digits", **told)
    record: Any = get_object(tuned, "training")
    assert record["accuracy_after"] == qpipe.validate([tuned], "digits").rows[0].top1
    assert record["accuracy_after"] != record["epochs"][-1]["test_accuracy"]


def test_the_teacher_may_be_a_file(stages: Path) -> None:
    own, other = (
        qpipe.finetune(stages / "net.qdq.onnx", "digits", teacher=teacher, **SHORT)
        for teacher in ("float", str(stages / "net.onnx"))
    )
    losses = [get_object(tuned, "training")["epochs"][0]["loss"] for tuned in (own, other)]  # type: ignore[index,call-overload]
    # The QDQ file's own float network is the file, but for weights that were kept safe in pairs.
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_what_training_has_normalized_is_no_teacher(stages: Path, tmp_path: Path) -> None:
    """DoReFa-Net's float weights teach as long as nothing was trained; then the statistics are no longer theirs."""
    start, tuned, floats = tmp_path / "dorefa.qdq.onnx", tmp_path / "tuned.qdq.onnx", stages / "net.onnx"
    qpipe.calibrate(floats, "digits", start, quantizer="dorefa", weight_bits=2, activation_bits=2, batches=1)
    qpipe.finetune(start, "digits", tuned, teacher="float", **SHORT)
    why = "a network that was trained with another quantizer than fixed-point holds none"
    with pytest.raises(RecipeError, match=rf"^teacher: 'float', but {why}, expected the float network's file$"):
        qpipe.finetune(tuned, "digits", teacher="float", **SHORT)
    with pytest.raises(ModelError, match=rf"^teacher '.*tuned.qdq.onnx': {why}, expected a float network$"):
        qpipe.finetune(start, "digits", teacher=str(tuned), **SHORT)
    qpipe.finetune(tuned, "digits", teacher=str(floats), **SHORT)


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [((3, 8, 8), 10, r"takes \[3, 8, 8\], expected \[1, 8, 8\]"), ((1, 8, 8), 5, r"gives \[5\], expected \[10\]")],
)
def test_a_teacher_of_other_images_or_classes(
    stages: Path, tmp_path: Path, shape: tuple[int, int, int], classes: int, message: str
) -> None:
    net = Network(*shape)
    onnx.save(net.proto(net.head(net.op("Relu", net.conv("x", shape[0], 8)), 8, classes)), tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=rf"^teacher '.*other.onnx': {message}$"):
        qpipe.finetune(stages / "net.qdq.onnx", "digits", teacher=str(tmp_path / "other.onnx"), **SHORT)


def test_a_teacher_of_other_preprocessing(stages: Path, tmp_path: Path) -> None:
    teacher, other = tmp_path / "teacher.qdq.onnx", {"mean": (0.9,), "std": (0.01,)}
    qpipe.calibrate(stages / "net.onnx", "digits", teacher, preprocess=other, batches=1)
    with pytest.raises(ModelError, match=r"^teacher '.*teacher.qdq.onnx': carries another preprocessing than the net"):
        qpipe.finetune(stages / "net.qdq.onnx", "digits", teacher=str(teacher), **SHORT)
    qpipe.finetune(stages / "net.qdq.onnx", "digits", teacher=str(teacher), preprocess=other, **SHORT)


def test_a_teacher_that_was_trained_is_warned_of(stages: Path) -> None:
    with pytest.warns(UserWarning, match=r"^teacher: 'float' is this file's float copy as it was fine-tuned"):
        qpipe.finetune(stages / "tuned.qdq.onnx", "digits", teacher="float", **SHORT)
    with pytest.warns(UserWarning, match=r"^teacher: '.*tuned.qdq.onnx' is a file's float copy as it was fine-tuned"):
        qpipe.finetune(stages / "net.qdq.onnx", "digits", teacher=stages / "tuned.qdq.onnx", **SHORT)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"epochs": 0}, "epochs: 0, expected greater than or equal to 1"),
        ({"lr": -1.0}, "lr: -1.0, expected greater than 0"),
        ({"ssp_end": float("nan")}, "ssp_end: nan, expected a finite number"),
        ({"joint_distillation": -1.0}, "joint_distillation: -1.0, expected greater than or equal to 0"),
        ({"temperature": 0.0}, "temperature: 0.0, expected greater than 0"),
    ],
)
def test_values_out_of_range(stages: Path, value: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=rf"^{message}$"):
        qpipe.finetune(stages / "net.qdq.onnx", "digits", **{**SHORT, **value})


def test_diagnostics_are_in_the_file(stages: Path) -> None:
    tuned = qpipe.finetune(stages / "net.qdq.onnx", "digits", diagnose=True, **SHORT)
    record = get_object(tuned, "training")
    assert record is not None
    plain = qpipe.finetune(stages / "net.qdq.onnx", "digits", **SHORT)
    for initial, other in zip(tuned.graph.initializers.values(), plain.graph.initializers.values(), strict=True):
        np.testing.assert_array_equal(initial.const_value.numpy(), other.const_value.numpy())  # type: ignore[union-attr]
    assert len(record["diagnostics"]["step_cosine"]) == len(record["diagnostics"]["layers"])  # type: ignore[arg-type,index,call-overload]


def test_what_cannot_be_trained(stages: Path) -> None:
    with pytest.raises(ModelError, match="run `qpipe calibrate` first"):
        qpipe.finetune(stages / "net.onnx", "digits")
    final = qpipe.export(stages / "tuned.qdq.onnx", format="qdq")
    with pytest.raises(ModelError, match=r"^the model: final already"):
        qpipe.finetune(final, "digits", evaluate=False)
    images = np.zeros((4, 8, 8, 1), np.uint8)
    with pytest.raises(DataError, match="no labels"):
        qpipe.finetune(stages / "net.qdq.onnx", images)
    with pytest.raises(DataError, match="10 classes"):
        qpipe.finetune(stages / "net.qdq.onnx", (images, np.array([0, 1, 2, 11])), evaluate=False)
    with pytest.raises(QpipeError, match="--resume: no checkpoint was named"):
        qpipe.finetune(stages / "net.qdq.onnx", "digits", resume=True, evaluate=False)


def test_the_argument_stays_as_it_was(stages: Path) -> None:
    proto = onnx.load(stages / "net.qdq.onnx")
    before = proto.SerializeToString(deterministic=True)
    qpipe.finetune(proto, "digits", **SHORT)
    assert proto.SerializeToString(deterministic=True) == before
