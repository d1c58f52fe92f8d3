import numpy as np
import pytest

from passes.rewrites.freeze_batch_norm import FreezeBatchNorm
from qpipe.progress import reporting
from support.networks import build, integers, ops
from support.rewriting import assert_stays
from support.run import run_as_written

STATISTICS = {name: integers(3, seed=i) for i, name in enumerate("gbm")} | {"v": np.full(3, 4, np.float32)}
TRAINING = "BatchNormalization<training_mode = 1>(x, g, b, m, v)"


def test_the_running_statistics_are_used(capsys):
    model = build(f"(float[N,3,4] x) => (float[] y) {{ y, m2, v2 = {TRAINING} }}", **STATISTICS)
    with reporting():
        assert FreezeBatchNorm()(model).modified
    assert "was exported in training mode" in capsys.readouterr().err
    assert ops(model) == ["BatchNormalization"]
    inference = build("(float[N,3,4] x) => (float[] y) { y = BatchNormalization(x, g, b, m, v) }", **STATISTICS)
    x = integers(2, 3, 4)
    np.testing.assert_array_equal(run_as_written(model, x=x)[0], run_as_written(inference, x=x)[0])
    assert_stays(FreezeBatchNorm(), model)


@pytest.mark.parametrize(
    "text",
    [
        f"(float[N,3,4] x) => (float[] y, float[3] m2) {{ y, m2, v2 = {TRAINING} }}",
        f"(float[N,3,4] x) => (float[] y) {{ m = Identity(n) y, m2, v2 = {TRAINING} }}",
        "(float[N,3,4] x) => (float[] y) { y = BatchNormalization(x, g, b, m, v) }",
    ],
    ids=["statistics are read", "computed ones", "at inference"],
)
def test_what_stays(text):
    used = {name: array for name, array in STATISTICS.items() if f" {name} =" not in text}
    more = {"n": STATISTICS["m"]} if "Identity(n)" in text else {}
    assert_stays(FreezeBatchNorm(), build(text, **used, **more))
