import json
import re
from pathlib import Path

import pytest
from torch import nn

import qpipe
from qpipe.errors import ModelError
from qpipe.json_values import to_plain
from qpipe.settings.energy import PRICE_LISTS
from qpipe.verbs.energy import EnergyReport
from support.networks import Network, integers, parse
from support.zoo.digits import digits_model

ROUNDING = 1e-12
"""Sums of products of a few floats."""


def ratios(report: EnergyReport) -> dict[str, dict[str, float | None]]:
    return {one.what: one.ratios for one in report.savings}


def test_a_float_network_beside_low_bit_training_and_exports(stages: Path) -> None:
    report = qpipe.energy(stages / "net.onnx")
    inspected = qpipe.inspect(stages / "net.onnx")
    assert report.kind == "float"
    assert report.parameters == inspected.parameters
    assert {run.name: (run.use, run.images) for run in report.runs} == {
        "float step": ("training", 128),
        "low-bit step": ("training", 128),
        "float inference": ("inference", 1),
        "int8 inference": ("inference", 1),
        "int4 inference": ("inference", 1),
    }
    assert {run.macs for run in report.runs if run.use == "inference"} == {inspected.macs}
    assert list(report.units) == list(report.titles) == list(PRICE_LISTS)
    saved = ratios(report)
    assert saved["equation 9"]["equation-9"] == pytest.approx(5 / (4 / 7 + 1 / 20 + 1 / 9), rel=ROUNDING)
    # A whole step has more than products, and all lists have training; the exports are not in each.
    for name in PRICE_LISTS:
        assert (saved["low-bit products, 128 images"][name] or 0) > (saved["whole step, 128 images"][name] or 0) > 1
        assert (saved["int8 inference"][name] is None) == (name != "horowitz")
    assert (saved["int4 inference"]["horowitz"] or 0) > (saved["int8 inference"]["horowitz"] or 0) > 1
    assert report.notes == ()
    assert json.loads(json.dumps(to_plain(report)))["savings"][0]["what"] == "equation 9"


def test_formats_are_those_that_were_given(stages: Path) -> None:
    def products(**options: object) -> set[str]:
        report = qpipe.energy(stages / "net.onnx", **options)  # type: ignore[arg-type]
        return {row.operation for row in report.operations if row.operation.startswith("multiply ⟨")}

    assert products() == {"multiply ⟨2, 4⟩"}
    assert products(element=(2, 1)) == {"multiply ⟨2, 1⟩"}
    assert products(element=(2, 1), element_weight=(0, 4), element_activation=(1, 2), element_error=(3, 2)) == {
        "multiply ⟨0, 4⟩ × ⟨1, 2⟩",
        "multiply ⟨3, 2⟩ × ⟨0, 4⟩",
        "multiply ⟨3, 2⟩ × ⟨1, 2⟩",
    }


def test_accumulators_are_those_of_each_low_bit_layer(stages: Path) -> None:
    def rows(**options: object) -> dict[str, dict[str, int]]:
        report = qpipe.energy(stages / "net.onnx", prices="horowitz", **options)  # type: ignore[arg-type]
        return {one.layer: one.bits for one in report.accumulators}

    inner = rows()
    # Of a 3x3 kernel nine products of ⟨2, 4⟩, whose elements are up to 124 steps, and a sign.
    assert {bits["Conv(W, A)"] for bits in inner.values()} == {(9 * 124 * 124).bit_length() + 1}
    assert rows(low_bit_ends=True).keys() > inner.keys()
    # Without groups a sum goes on over the channels.
    assert all(bits["Conv(W, A)"] > inner[name]["Conv(W, A)"] for name, bits in rows(group="none").items())


def test_groups_and_ends_are_those_that_were_given(stages: Path) -> None:
    def low_bit(**options: object) -> dict[str, int]:
        report = qpipe.energy(stages / "net.onnx", prices="horowitz", **options)  # type: ignore[arg-type]
        return {row.operation: row.counts["low-bit step"] for row in report.operations}

    with_groups, without, powers = low_bit(), low_bit(group="none"), low_bit(group_format=(8, 0))
    assert any(name.startswith("shift ") for name, count in with_groups.items() if count)
    assert not any(name.startswith("shift ") for name, count in without.items() if count)
    # Scales that are powers of two have nothing to add.
    assert sum(powers.values()) < sum(with_groups.values())
    same = {"group_weight": "none", "group_activation": "none", "group_error": "none"}
    assert low_bit(**same) == without
    assert low_bit(low_bit_ends=True)["multiply ⟨2, 4⟩"] > with_groups["multiply ⟨2, 4⟩"]


def test_a_step_costs_in_proportion_to_its_images_but_for_the_weights(stages: Path) -> None:
    one, two = (qpipe.energy(stages / "net.onnx", batch_size=size, prices="horowitz") for size in (1, 2))
    for first, second in zip(one.parts, two.parts, strict=True):
        if first.run != "float step":
            continue
        factor = 1 if first.name == "SGD" else 2
        assert second.operations == {name: factor * count for name, count in first.operations.items()}


def test_a_price_list_of_ones_own(stages: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('unit = "nJ"\n[multiply]\nfloat32 = 10\nint8 = 1\n[add]\nfloat32 = 2\nint32 = "1/2"\n')
    report = qpipe.energy(stages / "net.onnx", prices=path)
    assert report.units == {str(path): "nJ"}
    prices = {row.operation: row.prices[str(path)] for row in report.operations}
    assert prices["multiply float32"] == 10
    assert prices["add int32"] == 0.5
    path.write_text('covers = ["inference"]\n' + path.read_text())
    assert qpipe.energy(stages / "net.onnx", prices=path).savings[0].ratios == {str(path): None}


@pytest.mark.parametrize("file", ["net.qdq.onnx", "tuned.qdq.onnx"])
def test_a_qdq_file_beside_the_same_in_float(file: str, stages: Path) -> None:
    report, plain = qpipe.energy(stages / file), qpipe.energy(stages / "net.onnx")
    assert [run.name for run in report.runs] == ["float step", "simulated step", "float inference", "integer inference"]
    assert [one.what for one in report.savings] == ["simulated step", "integer inference"]
    assert (report.savings[0].ratios["horowitz"] or 0) < 1
    assert report.savings[1].ratios["horowitz"] == pytest.approx(
        ratios(plain)["int8 inference"]["horowitz"], rel=ROUNDING
    )
    assert report.notes == ("low-bit training takes a float network: of a QDQ file none is counted",)


def test_a_final_file_is_not_trained(stages: Path, tmp_path: Path) -> None:
    final = tmp_path / "final.onnx"
    qpipe.export(stages / "tuned.qdq.onnx", final, format="qdq")
    report = qpipe.energy(final)
    assert [run.name for run in report.runs] == ["float inference", "integer inference"]


def test_a_torch_module_with_its_shape() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(4 * 36, 5))
    report = qpipe.energy(module, input_shape=(3, 8, 8), batch_size=1)
    assert {run.macs for run in report.runs if run.use == "inference"} == {36 * 4 * 27 + 144 * 5}
    with pytest.raises(ModelError, match="needs its input shape"):
        qpipe.energy(module)


def test_nothing_between_the_first_and_the_last_layer() -> None:
    n = Network(3, 6, 6)
    report = qpipe.energy(n.model(n.head(n.op("Relu", n.conv("x", 3, 4)), 4)))
    assert [one.what for one in report.savings] == [
        "equation 9",
        "whole step, 128 images",
        "int8 inference",
        "int4 inference",
    ]
    assert report.savings[1].ratios["horowitz"] == 1


def test_an_island_of_float_is_counted_as_such() -> None:
    n = Network(3, 6, 6)
    x = n.op("Sinh", n.conv(n.op("Relu", n.conv("x", 3, 4)), 4, 4), name="odd")
    report = qpipe.energy(n.model(n.head(x, 4)))
    assert [run.name for run in report.runs][:3] == ["float step", "low-bit step", "float inference"]
    assert len(report.runs) == 5
    assert report.notes == ("not counted, because nothing is known of their work: 1 Sinh",)


def test_a_network_that_can_not_be_exported_is_trained_all_the_same() -> None:
    odd = parse("(float[4,4] x) => (float[] y) { [odd] y = Gemm(x, w, x) }", w=integers(4, 4))
    report = qpipe.energy(odd)
    assert "no export is counted: no layer of weights has an integer form: Gemm 'odd'" in report.notes


def test_a_model_stays_as_it_was() -> None:
    model = digits_model()
    before = model.SerializeToString()
    qpipe.energy(model)
    assert model.SerializeToString() == before


def words_of(picture: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", picture.read_text())


@pytest.mark.parametrize("file", ["net.onnx", "net.qdq.onnx"])
def test_a_picture(file: str, stages: Path, tmp_path: Path) -> None:
    picture = tmp_path / "energy.svg"
    report = qpipe.energy(stages / file, picture=picture)
    words = words_of(picture)
    for one in report.savings:
        assert one.what in words
        assert f"{one.ratios['horowitz']:.3g}×" in words
    assert {"Times less energy than in float", "Where it goes, by horowitz", report.runs[1].name} <= {*words}


def test_a_picture_is_a_png_by_its_name(tmp_path: Path) -> None:
    qpipe.energy(digits_model(), picture=tmp_path / "energy.png")
    assert (tmp_path / "energy.png").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["energy.png"]


def test_the_batch_is_no_part_of_an_image() -> None:
    counted = []
    for batch in (7, "N"):
        n = Network(3, 6, 6, batch=batch)
        counted.append(qpipe.energy(n.model(n.head(n.op("Relu", n.conv("x", 3, 4)), 4)), batch_size=1).operations)
    assert counted[0] == counted[1]
