"""AG, SSP and fading with values that there are not: one line that says which, exit status 2, and nothing written."""

from collections.abc import Callable

import pytest


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--method ag --auxiliary-weight 0", "--auxiliary-weight: 0.0, expected "),
        ("--method ag --auxiliary-weight -1", "--auxiliary-weight: -1.0, expected "),
        ("--method ag --auxiliary-weight nan", "--auxiliary-weight: nan, expected "),
        ("--method ag --auxiliary-weight much", "'--auxiliary-weight'"),
        ("--method agg", "'--method'"),
        ("--ssp --ssp-ratio 1.5", "--ssp-ratio: 1.5, expected "),
        ("--ssp --ssp-ratio -0.1", "--ssp-ratio: -0.1, expected "),
        ("--ssp --ssp-end 0", "--ssp-end: 0.0, expected "),
        ("--ssp --ssp-end 2", "--ssp-end: 2.0, expected "),
        ("--ssp --ssp-fragments channels", "'--ssp-fragments'"),
        ("--ssp --ssp-draws often", "'--ssp-draws'"),
        ("--plain --fade 1.1", "--fade: 1.1, expected "),
        ("--plain --fade -0.5", "--fade: -0.5, expected "),
        ("--fade 0.5", "fade: 0.5, but no skips are stripped in this run, expected 0, or a network with skips"),
        ("--plain --blocks layer9.*", "blocks 'layer9.*': matches no residual block, expected a pattern of names such"),
        ("--optimizer lion", "'--optimizer'"),
        ("--recipe ags", "'--recipe'"),
    ],
)
def test_finetune(words: str, expected: str, refused: Callable[[str], str]) -> None:
    assert expected in refused(f"finetune net.qdq.onnx --data digits -o out.onnx {words}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--quantizer dorefa", "weight_bits: 8, expected 2 to 7 with the quantizer 'dorefa'"),
        ("--quantizer dorefa --weight-bits 7", "7-bit dorefa weights on a 8-bit input saturate on x86 without VNNI"),
        (
            "--quantizer dorefa --weight-bits 2 --no-restore-batch-norm",
            "Conv 'conv3': no BatchNormalization follows it, expected one with dorefa",
        ),
        (
            "--quantizer dorefa --weight-bits 2 --layer conv2:weight_bits=8",
            "Conv 'conv2': 8-bit weights, expected 2 to",
        ),
        (
            "--quantizer lq --weight-bits 2 --per-tensor",
            "per_channel: false, expected true with the quantizer 'lq'",
        ),
        ("--quantizer lq --weight-bits 5", "weight_bits: 5, expected 2 to 4 with the quantizer 'lq'"),
        ("--quantizer xnor --weight-bits 2", "'--quantizer'"),
        ("--skip-bits 9", "'--skip-bits'"),
        ("--skip-bits 1", "'--skip-bits'"),
    ],
)
def test_calibrate(words: str, expected: str, refused: Callable[[str], str]) -> None:
    assert expected in refused(f"calibrate net.onnx --data digits --batches 1 -o out.onnx {words}")
