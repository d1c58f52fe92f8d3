"""`finetune` of a float network: in float, or on low-bit operands; a float network comes out, as it was given."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

import qpipe
from passes.normalize import normalize
from passes.randomize_weights import RandomizeWeights
from passes.skips.strip_skips import StripSkips
from qpipe.data import Preprocess, open_data
from qpipe.errors import ModelError, QpipeError, RecipeError
from qpipe.ir.files.load import load_model
from qpipe.ir.files.metadata import get_input_sha256, get_object, get_provenance
from qpipe.train.executor import Executor
from support.run import run
from support.zoo.digits import PREPROCESS

RUN: dict[str, Any] = {
    "recipe": "mls-cifar", "epochs": 2, "lr": 0.05, "batch_size": 32, "flip": False, "preprocess": PREPROCESS,
}  # fmt: skip
MLS: dict[str, Any] = {**RUN, "arithmetic": "mls"}
SHORT: dict[str, Any] = {**MLS, "epochs": 1, "evaluate": False, "batch_size": 128, "milestones": (0.5,)}
SUMMED_OTHERWISE = 1e-4
"""Relative to the largest logit: two float32 runtimes."""


def record_of(model: ir.Model) -> dict[str, Any]:
    record = get_object(model, "training")
    assert record is not None
    return dict(record)


def bytes_of(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


@pytest.fixture(scope="module")
def low(stages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained with the default formats."""
    path = tmp_path_factory.mktemp("low") / "low.onnx"
    qpipe.finetune(stages / "net.onnx", "digits", path, evaluate_every=1, **MLS)
    return path


def test_it_learns_and_tells_both_accuracies(low: Path) -> None:
    model = load_model(low)
    record = record_of(model)
    assert record["accuracy_after"] > record["accuracy_before"] + 0.3
    assert record["accuracy_low_bit"] > record["accuracy_before"] + 0.3
    assert [phase["phase"] for phase in record["phases"]] == ["before training", "trained", "trained, low-bit forward"]
    last = record["epochs"][-1]
    assert last["test_accuracy"] == record["accuracy_after"] == record["phases"][1]["accuracy"]
    assert last["low_bit_accuracy"] == record["accuracy_low_bit"] == record["phases"][2]["accuracy"]
    # The figure is that of the file.
    assert qpipe.validate([low], "digits").rows[0].top1 == record["accuracy_after"]


def test_what_comes_out_is_what_went_in_with_other_numbers(stages: Path, low: Path) -> None:
    given, trained = load_model(stages / "net.onnx"), load_model(low)
    normalize(given)
    for value in ("inputs", "outputs"):
        assert [v.name for v in getattr(trained.graph, value)] == [v.name for v in getattr(given.graph, value)]
    assert [(n.name, n.op_type) for n in trained.graph] == [(n.name, n.op_type) for n in given.graph]
    assert sum(node.op_type == "BatchNormalization" for node in trained.graph) == 2
    before, after = (
        {name: v.const_value.numpy() for name, v in model.graph.initializers.items() if v.const_value is not None}
        for model in (given, trained)
    )
    assert before.keys() == after.keys()
    # Weights, a bias, and of BatchNormalization the parameters and the statistics.
    trains = [name for name in before if name[0] in "wbn"]
    assert len(trains) == 14
    assert all(not np.array_equal(before[name], after[name]) for name in trains)
    assert qpipe.inspect(low).kind == "float"


def test_the_file_says_what_it_is(stages: Path, low: Path) -> None:
    model = load_model(low)
    assert get_input_sha256(model) == get_input_sha256(load_model(stages / "net.qdq.onnx"))
    last = get_provenance(model)[-1]
    assert last.name == "finetune"
    settings = record_of(model)["settings"]
    assert (settings["recipe"], settings["arithmetic"], settings["element"]) == ("mls-cifar", "mls", [2, 4])
    assert last.arguments == settings


def test_the_written_file_is_the_executors_evaluation(low: Path) -> None:
    executor = Executor(load_model(low))
    session = onnxruntime.InferenceSession(low, providers=["CPUExecutionProvider"])
    for batch in open_data("digits", "test", Preprocess(**PREPROCESS)).batches(90):
        (expected,) = session.run(None, {"x": batch.inputs})
        with torch.no_grad():
            found = executor(torch.from_numpy(batch.inputs))[0].numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=SUMMED_OTHERWISE * np.abs(expected).max())


def test_in_float_it_is_the_control_row(stages: Path, low: Path) -> None:
    trained = qpipe.finetune(stages / "net.onnx", "digits", arithmetic="float", **RUN)
    record = record_of(trained)
    assert record["accuracy_low_bit"] is None
    assert [phase["phase"] for phase in record["phases"]] == ["before training", "trained"]
    assert record["accuracy_after"] > record["accuracy_before"] + 0.3
    assert "element" not in record["settings"]
    assert bytes_of(trained) != bytes_of(load_model(low))


def test_one_seed_one_result(stages: Path) -> None:
    first, second, third = (
        qpipe.finetune(stages / "net.onnx", "digits", element=(2, 1), seed=seed, **SHORT) for seed in (0, 0, 1)
    )
    assert bytes_of(first) == bytes_of(second)
    assert bytes_of(first) != bytes_of(third)


def test_a_run_that_goes_on_ends_where_a_whole_one_does(stages: Path, tmp_path: Path) -> None:
    options = {**SHORT, "epochs": 2, "schedule": "constant", "milestones": None}
    whole = qpipe.finetune(stages / "net.onnx", "digits", **options)
    state = tmp_path / "state"
    qpipe.finetune(stages / "net.onnx", "digits", checkpoint=state, **{**options, "epochs": 1})
    rest = qpipe.finetune(stages / "net.onnx", "digits", checkpoint=state, resume=True, **options)
    assert bytes_of(whole) == bytes_of(rest)
    with pytest.raises(QpipeError, match="a checkpoint of another run: element was 2, 4, now 2, 1"):
        qpipe.finetune(
            stages / "net.onnx", "digits", checkpoint=state, resume=True, element=(2, 1), **{**options, "epochs": 3}
        )


def test_a_quantized_file_trains_on_low_bit_products_and_evaluates_as_it_did(stages: Path) -> None:
    short = {"lr": 0.02, "flip": False, "evaluate": False}
    plain = qpipe.finetune(stages / "net.qdq.onnx", "digits", **short)
    low = qpipe.finetune(stages / "net.qdq.onnx", "digits", arithmetic="mls", **short)
    assert bytes_of(plain) != bytes_of(low)
    assert record_of(low)["settings"]["recipe"] == "faq-8bit"
    assert record_of(low)["accuracy_low_bit"] is None
    assert qpipe.validate([low, qpipe.export(low)], "digits").rows[0].integers_equal


def test_a_trained_network_goes_on_through_the_house(stages: Path, low: Path) -> None:
    """Calibrated, fine-tuned with its own float network as the teacher, and exported."""
    quantized = qpipe.calibrate(low, "digits", batches=1)
    tuned = qpipe.finetune(quantized, "digits", lr=1e-3, teacher=str(low), flip=False)
    assert qpipe.validate([tuned, qpipe.export(tuned)], "digits").rows[0].integers_equal
    # What the QDQ file holds is the float network as it was given.
    assert get_object(quantized, "training") is None
    qpipe.finetune(quantized, "digits", lr=1e-3, teacher="float", flip=False, evaluate=False)


def test_a_plain_network_trains_in_float_taught_by_the_one_with_skips(low: Path, tmp_path: Path) -> None:
    """From where `calibrate --plain` begins; what comes out goes on as any float network, and is known to be plain."""
    path = tmp_path / "plain.onnx"
    trained = qpipe.finetune(low, "digits", path, plain=True, arithmetic="float", epochs=1, flip=False)
    record = record_of(trained)
    assert [phase["phase"] for phase in record["phases"]] == ["float", "skips stripped", "trained"]
    assert (record["settings"]["recipe"], record["settings"]["teacher"]) == ("plain", "float")
    # An epoch of the digits moves a few images both ways, which of them hangs on the CPU's sums.
    assert min(record["accuracy_before"], record["accuracy_after"]) > 0.5
    calibrated = qpipe.calibrate(low, "digits", plain=True)
    refit, training = get_provenance(load_model(path))[-2:]
    assert (refit.name, training.name) == ("refit-blocks", "finetune")
    assert refit in get_provenance(calibrated)
    assert not {node.op_type for node in trained.graph} & {"Add", "QuantizeLinear"}
    quantized = qpipe.calibrate(path, "digits", batches=1)
    tuned = qpipe.finetune(quantized, "digits", method="ag", lr=1e-4, flip=False, crop_padding=0, evaluate=False)
    assert qpipe.validate([tuned, qpipe.export(tuned, plain=True)], "digits").rows[0].integers_equal


def test_skips_that_are_cut_change_no_weight_of_a_plain_float_network(stages: Path) -> None:
    cut = qpipe.finetune(
        stages / "net.onnx", "digits", plain=True, strip="cut", arithmetic="float", lr=1e-30, weight_decay=0.0,
        evaluate=False, batch_norm="running", teacher="none", flip=False, preprocess=PREPROCESS,
    )  # fmt: skip
    network = load_model(stages / "net.onnx")
    normalize(network)
    StripSkips()(network)
    (batch,) = open_data("digits", "test", Preprocess(**PREPROCESS)).batches(90, limit=90)
    np.testing.assert_array_equal(*(run(model, batch.inputs)[0] for model in (cut, network)))


def test_from_scratch_a_network_begins_with_the_weights_of_an_untrained_one(stages: Path) -> None:
    """Of the run's seed; a rate of nothing leaves them."""
    still = {
        "lr": 1e-30, "weight_decay": 0.0, "batch_norm": "running", "evaluate": False, "flip": False,
        "preprocess": PREPROCESS, "epochs": 1,
    }  # fmt: skip
    begun = qpipe.finetune(stages / "net.onnx", "digits", arithmetic="mls", start="random", seed=3, **still)
    untrained = load_model(stages / "net.onnx")
    normalize(untrained)
    RandomizeWeights(seed=3)(untrained)
    (batch,) = open_data("digits", "test", Preprocess(**PREPROCESS)).batches(90, limit=90)
    np.testing.assert_array_equal(*(run(model, batch.inputs)[0] for model in (begun, untrained)))
    assert [entry.name for entry in get_provenance(begun)][-2:] == ["randomize-weights", "finetune"]


@pytest.mark.parametrize(
    ("file", "values", "kind", "message"),
    [
        (
            "net.onnx", {"arithmetic": None}, ModelError,
            "not a quantized model, expected a QDQ file; run `qpipe calibrate` first, or train it as it is with "
            "--arithmetic float or mls",
        ),
        ("net.qdq.onnx", {"arithmetic": "float"}, RecipeError, "arithmetic: 'float', but the network is quantized"),
        ("net.qdq.onnx", {"start": "random"}, RecipeError, "start: 'random', but the network is quantized, ex"),
        (
            "net.onnx", {"start": "random", "plain": True}, RecipeError,
            "start: 'random', expected it with an arithmetic, of a float network, and without plain",
        ),
        ("net.onnx", {"start": "random", "arithmetic": None}, RecipeError, "start: 'random', expected it with an a"),
        ("net.int8.onnx", {}, ModelError, "is an export (qoperator), expected the QDQ file that it was made from"),
        ("net.onnx", {"method": "ag"}, RecipeError, "method: 'ag', but the network is float, expected none, or a QDQ"),
        ("net.onnx", {"ssp": True}, RecipeError, "ssp: True, but the network is float, expected none, or a QDQ file"),
        ("net.onnx", {"joint_distillation": 0.1}, RecipeError, "joint_distillation: 0.1, but the network is float"),
        ("net.onnx", {"additional_losses": 0.1}, RecipeError, "additional_losses: 0.1, but the network is float"),
        ("net.onnx", {"activation_gradient": "ymax"}, RecipeError, "activation_gradient: 'ymax', but the network is"),
        ("net.onnx", {"fade": 0.5}, RecipeError, "fade: 0.5, but the network is float, expected none, or a"),
        (
            "net.onnx", {"arithmetic": "float", "plain": True, "fade": 0.5}, RecipeError,
            "fade: 0.5, but the network is float, expected none, or a QDQ file",
        ),
        # Before blocks are looked for, which takes data.
        (
            "net.onnx", {"arithmetic": "float", "plain": True, "train_scales": 1.0, "blocks": "none"}, RecipeError,
            "train_scales: 1.0, but the network is float, expected none, or a QDQ file",
        ),
        ("net.onnx", {"teacher": "float"}, RecipeError, "teacher: 'float', but the network is float itself, expected"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(
    stages: Path, file: str, values: dict[str, Any], kind: type[QpipeError], message: str
) -> None:
    options = {key: value for key, value in SHORT.items() if key not in {"milestones", "recipe"}}
    with pytest.raises(kind) as raised:
        qpipe.finetune(stages / file, "digits", **{**options, **values})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_teacher_may_be_a_file(stages: Path) -> None:
    tuned = qpipe.finetune(stages / "net.onnx", "digits", teacher=str(stages / "net.onnx"), **SHORT)
    assert record_of(tuned)["settings"]["teacher"].endswith("net.onnx")


def test_a_run_that_diverges_says_so_and_writes_nothing(stages: Path, tmp_path: Path) -> None:
    output, state = tmp_path / "low.onnx", tmp_path / "state"
    with pytest.raises(QpipeError, match=r"^epoch \d, update \d+: .*; a lower --lr may help") as raised:
        qpipe.finetune(stages / "net.onnx", "digits", output, checkpoint=state, **{**MLS, "lr": 1e30})
    assert "\n" not in str(raised.value)
    assert not output.exists()


def test_a_class_that_the_graph_chooses_is_judged_by_its_scores(stages: Path, tmp_path: Path) -> None:
    proto = onnx.load(stages / "net.onnx")
    node = onnx.helper.make_node("ArgMax", ["logits"], ["class"], axis=1, keepdims=0)
    proto.graph.node.append(node)
    del proto.graph.output[:]
    proto.graph.output.append(onnx.helper.make_tensor_value_info("class", onnx.TensorProto.INT64, ["batch"]))
    onnx.save_model(proto, tmp_path / "argmax.onnx")
    options = {**SHORT, "evaluate": True}
    chosen, scored = (
        record_of(qpipe.finetune(file, "digits", **options)) for file in (tmp_path / "argmax.onnx", stages / "net.onnx")
    )
    assert chosen["accuracy_low_bit"] is not None
    assert chosen["accuracy_low_bit"] == scored["accuracy_low_bit"]
