"""What the comparison with onnxruntime is made of: data of realistic statistics, the ratio, and a network's logits."""

from pathlib import Path

import bench_snr
import numpy as np
import onnx_ir as ir
import pytest
import snr_inputs
from zoo_networks import ZOO

from qpipe.ir.files.save import save_model
from support.networks import Network

SHAPE = (2, 1, 40)
COUNTS = {"calibration": 6, "evaluation": 4}


def test_a_tenth_of_the_signal_as_noise_is_20_decibels() -> None:
    signal = np.full((2, 3), 10, np.float32)
    assert bench_snr.decibels([signal], [signal + 1]) == 20
    assert bench_snr.decibels([signal, signal], [signal, signal + 1]) == 23


def test_a_sample_of_unusual_size_leaves_the_median_alone() -> None:
    signal = np.array([[10], [10], [10000]], np.float32)
    assert bench_snr.median_decibels([signal], [signal + 1]) == 20
    assert bench_snr.decibels([signal], [signal + 1]) > 70


def test_figures_are_means_over_draws() -> None:
    figures = bench_snr.means([{"SNR dB": 20.0, "top-1": None}, {"SNR dB": 21.11, "top-1": None}])
    assert (figures["SNR dB"], figures["top-1"], figures["median dB"]) == (20.6, None, None)
    assert set(figures) == set(bench_snr.FIGURES)


@pytest.mark.parametrize("stem", ["none", "policy.TorchScript-17"])
def test_draws_have_samples_of_their_own(stem: str) -> None:
    shape = ZOO.entries["policy"].shapes[0] if "policy" in stem else SHAPE
    first, second = (snr_inputs.inputs_of(stem, shape, Path(), Path(), draw=draw, **COUNTS) for draw in (0, 1))
    assert not np.isin(second.calibration, first.calibration).all()
    assert not np.isin(second.evaluation, first.evaluation).all()


def test_options_are_read_as_their_types() -> None:
    assert bench_snr.parsed("cpu=vnni,restore_batch_norm=false,percentile=99.9") == {
        "cpu": "vnni", "restore_batch_norm": False, "percentile": 99.9
    }  # fmt: skip


def test_waves_move_along_the_longest_axis_and_no_sample_comes_twice() -> None:
    inputs = snr_inputs.inputs_of("none", SHAPE, Path(), Path(), **COUNTS)
    assert inputs.calibration.shape == (6, *SHAPE)
    assert inputs.evaluation.shape == (4, *SHAPE)
    assert not np.isin(inputs.evaluation, inputs.calibration).any()
    steps = np.abs(np.diff(inputs.calibration, axis=-1)).mean()
    spread = inputs.calibration.std()
    assert steps < spread / 2


def test_a_network_of_the_zoo_gets_what_its_entry_says() -> None:
    inputs = snr_inputs.inputs_of("policy.TorchScript-17", ZOO.entries["policy"].shapes[0], Path(), Path(), **COUNTS)
    assert [len(inputs.calibration), len(inputs.evaluation)] == [6, 4]
    more = snr_inputs.inputs_of("policy.dynamo-20", ZOO.entries["policy"].shapes[0], Path(), Path(), **COUNTS)
    assert np.array_equal(inputs.calibration, more.calibration)
    assert not np.isin(inputs.evaluation, inputs.calibration).all()


def test_each_count_of_samples_comes_once_and_large_networks_get_fewer() -> None:
    assert [c["calibration"] for c in bench_snr.counts("16,128,512", 1000, is_large=False)] == [16, 128, 512]
    large = bench_snr.counts("8,32,128,512", 1000, is_large=True)
    assert [c["calibration"] for c in large] == [8, 32]
    assert {c["evaluation"] for c in large} == {62}


def test_images_that_fit_keep_their_labels_and_enlarged_ones_have_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (5, 8, 8, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(5)
    np.savez(tmp_path / "images.npz", **arrays)
    counts = {"calibration": 3, "evaluation": 2}
    same = snr_inputs.inputs_of("none", (3, 8, 8), tmp_path / "images.npz", Path(), **counts)
    assert same.labels is not None
    assert same.labels.tolist() == [0, 1]
    assert np.array_equal(np.round(same.evaluation * 255), np.moveaxis(arrays["test_images"][:2], -1, 1))
    large = snr_inputs.inputs_of("none", (3, 20, 30), tmp_path / "images.npz", Path(), **counts)
    assert large.labels is None
    assert large.calibration.shape == (3, 3, 20, 30)


@pytest.mark.parametrize("softmax", [True, False])
def test_logits_are_what_the_softmax_reads(tmp_path: Path, softmax: bool) -> None:
    network = Network(3)
    logits = network.gemm("x", 3, 4)
    save_model(network.model(network.op("Softmax", logits) if softmax else logits), tmp_path / "net.onnx")
    bare = bench_snr.without_softmax(tmp_path / "net.onnx", tmp_path)
    if not softmax:
        assert bare is None
    else:
        assert bare is not None
        assert [node.op_type for node in ir.load(bare).graph] == ["Gemm"]
