"""The zoo: what a network goes through and what is told of it; the page holds what the results say."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import zoo
import zoo_page
from results import RESULTS
from torch import nn
from zoo_case import DEFECT, REFUSED, THROUGH, kinds, run_case
from zoo_given import given_inputs
from zoo_networks import ZOO
from zoo_networks.data import draw
from zoo_networks.export import VARIANTS, write
from zoo_networks.settle import settled

from support.networks import parse

ROOT = Path(__file__).parents[2]
SPELLED = 1e-4
"""Relative to the largest: the spellings multiply and add in another order, in float32."""
SCRIPT, KERAS = VARIANTS[1], VARIANTS[-1]


@pytest.mark.parametrize("name", ["policy", "mlperf_resnet8", "mobilenet_v3_small"])
def test_keras_spelling_is_the_same_function(name: str, tmp_path: Path) -> None:
    arrays = draw(ZOO.entries[name], 2, 5)
    found = []
    for variant in (SCRIPT, KERAS):
        write(name, variant, tmp_path / "net.onnx")
        ops = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
        session = ort.InferenceSession(tmp_path / "net.onnx")
        is_last = session.get_inputs()[0].shape[-1] == 3
        inputs = [np.moveaxis(array, 1, -1) for array in arrays] if is_last else arrays
        found.append(session.run(None, {"input": inputs[0]})[0])
    assert not ops & {"BatchNormalization", "Gemm", "HardSwish", "GlobalAveragePool"}
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=SPELLED * np.abs(found[0]).max())


def test_settled_networks_are_always_the_same_and_even() -> None:
    first, second = settled("mlperf_resnet8"), settled("mlperf_resnet8")
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    conv = next(module for module in first.modules() if isinstance(module, nn.Conv2d))
    norm = next(module for module in first.modules() if isinstance(module, nn.BatchNorm2d))
    with torch.no_grad():
        y = conv(torch.from_numpy(draw(ZOO.entries["mlperf_resnet8"], 64, 3)[0]))
    ratio = y.var((0, 2, 3)) / norm.running_var
    # Of 64 images that the statistics have not seen.
    assert 0.3 < float(ratio.min()) <= float(ratio.max()) < 3


@pytest.mark.parametrize("name", ZOO.entries)
def test_data_have_the_shapes_and_types_of_inputs(name: str) -> None:
    entry = ZOO.entries[name]
    for index, array in enumerate(draw(entry, 3, 0)):
        assert array.shape == (3, *entry.shapes[index])
        assert array.dtype == (np.int64 if entry.kind(index) == "tokens" else np.float32)
        assert len({row.tobytes() for row in array}) == 3


def test_a_network_goes_through(tmp_path: Path) -> None:
    write("sensor_mlp", SCRIPT, tmp_path / "net.onnx")
    calibration, evaluation = ({"input": draw(ZOO.entries["sensor_mlp"], 8, seed)[0]} for seed in (1, 2))
    outcome = run_case(tmp_path / "net.onnx", calibration, evaluation, tmp_path)
    assert (outcome.result, outcome.said) == (THROUGH, "")
    assert outcome.behind == {"Softmax": 1}
    assert outcome.equal
    assert outcome.decibels is not None
    assert outcome.decibels > 20
    assert set(outcome.seconds) == {*zoo_page.STEPS, "compare"}
    assert outcome.computing > 0


def test_a_refusal_is_told_with_its_step(tmp_path: Path) -> None:
    onnx.save(parse("(float[2,4] x) => (float[2,4] y) { y = Relu(x) }"), tmp_path / "net.onnx")
    data = given_inputs(tmp_path / "net.onnx", 4, 0)
    outcome = run_case(tmp_path / "net.onnx", data, data, tmp_path)
    assert (outcome.result, outcome.step) == (REFUSED, "calibrate")
    assert outcome.said.startswith("net.onnx: ")
    assert "\n" not in outcome.said


def test_a_traceback_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr("qpipe.inspect", fails)
    outcome = run_case(tmp_path / "net.onnx", {}, {}, tmp_path)
    assert (outcome.result, outcome.step) == (DEFECT, "inspect")
    assert outcome.said == "ValueError in tests/tools/test_zoo.py:fails: two"


def test_later_rows_take_the_place_of_earlier_ones() -> None:
    def row(network: str, result: str) -> dict[str, str]:
        return {"network": network, "written by": "TorchScript-11", "result": result}

    earlier = [row("vit", "refused"), row("resnet18", "through")]
    assert zoo.merged(earlier, [row("vit", "through")]) == sorted(
        [row("vit", "through"), row("resnet18", "through")], key=lambda one: list(ZOO.entries).index(one["network"])
    )


def test_the_most_frequent_kinds_come_first() -> None:
    assert kinds({"Mul": 2, "Softmax": 1, "Add": 2}) == "2 Add, 2 Mul, Softmax"
    assert kinds({}) == ""


def test_the_page_holds_what_the_results_say() -> None:
    tables = json.loads((ROOT / RESULTS / "zoo.json").read_text())["tables"]
    page = (ROOT / zoo_page.PAGE).read_text()
    made = page.partition(zoo_page.BEGIN)[2].partition(zoo_page.END)[0]
    assert made == zoo_page.made(tables)
    assert {row["network"] for row in tables[zoo.NETWORKS]} <= set(ZOO.entries)


def test_a_profile_is_a_line_for_each_network() -> None:
    rows = [{"network": name, "function": f"a/b.py:{f}", "calls": 1, "s": s, "with calls s": 9.0}
            for name in ("m5", "crnn") for f, s in (("run", 2.5), ("add", 0.25))]  # fmt: skip
    made = zoo_page.made({zoo_page.PROFILES: rows})
    assert "| m5 | `a/b.py:run` 2.5, `a/b.py:add` 0.25 |\n| crnn | " in made
