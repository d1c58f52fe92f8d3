"""Networks of tokens and masks have no float, and mask what no sample that they were calibrated on has masked."""

import numpy as np
import pytest

import qpipe
from qpipe.errors import LoweringError
from qpipe.ir.quantized.float_free import float_tensors
from qpipe.runtime.session import open_session, run_batches
from support.networks import load, parse

RNG = np.random.default_rng(0)
FORMATS = ("integer", "qoperator", "qdq")


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


ATTENTION = (
    "q = MatMul(s, w1) k = Transpose<perm=[0,2,1]>(q) p = MatMul(q, k) {mask} a = Softmax<axis=-1>(t) v = MatMul(a, q) "
    "h = MatMul(v, w2) r = Relu(h) z = ReduceMean<keepdims=0>(r, one) "
)
EMBEDDING = "e = Gather(table, tokens) s = Add(e, positions)"
MASKS = {
    # As exporters write them: of numbers, of truth values, of the tokens themselves.
    "numbers": (
        "int64[N,6] mask",
        "m0 = Cast<to=1>(mask) m1 = Unsqueeze(m0, one) m2 = Sub(unit, m1) m = Mul(m2, low) t = Add(p, m)",
    ),
    "truth": (
        "bool[N,6] mask",
        "n = Not(mask) m0 = Cast<to=1>(n) m1 = Mul(m0, low) m = Unsqueeze(m1, one) t = Add(p, m)",
    ),
    "chosen": (
        "int64[N,6] mask",
        "m0 = Cast<to=9>(mask) m1 = Unsqueeze(m0, one) t = Where(m1, p, low)",
    ),
    "tokens": ("", "n = Equal(tokens, none) n1 = Unsqueeze(n, one) m = Where(n1, low, zero) t = Add(p, m)"),
}


def text_network(mask: str) -> tuple[object, dict[str, np.ndarray]]:
    """Of six tokens of a vocabulary of 11, of which 0 fills up, and a batch of them."""
    declared, nodes = MASKS[mask]
    inputs = ", ".join(["int64[N,6] tokens", *([declared] if declared else [])])
    proto = parse(
        f"({inputs}) => (float[N,3] y) {{ {EMBEDDING} {ATTENTION.format(mask=nodes)} y = MatMul(z, w3) }}",
        table=floats(11, 4), positions=floats(1, 6, 4), w1=floats(4, 8), w2=floats(8, 8), w3=floats(8, 3),
        one=np.array([1]), unit=np.float32(1), low=np.float32(-10000), zero=np.float32(0), none=np.int64(0),
    )  # fmt: skip
    tokens = RNG.integers(1, 11, (64, 6))
    tokens[RNG.random((64, 6)) < 0.2] = 0
    tokens[:, 0] = 3
    data = {"tokens": tokens}
    if declared:
        data["mask"] = (tokens != 0).astype(declared.split("[")[0])
    return proto, data


@pytest.mark.parametrize("mask", MASKS)
def test_a_text_network_has_no_float(mask):
    network, data = text_network(mask)
    roles = qpipe.inspect(network).roles
    assert "float island" not in roles
    assert roles["looked up"] >= 3
    qdq = qpipe.calibrate(network, data)
    found = {}
    for format_ in FORMATS:
        # Its gate compares every integer with the oracle.
        exported = qpipe.export(qdq, format=format_, data=data)
        found[format_] = next(run_batches(open_session(exported), [data], rows_only=False))[0]
        if format_ == "integer":
            assert float_tensors(exported) == []
    np.testing.assert_array_equal(found["integer"], found["qdq"])
    np.testing.assert_array_equal(found["qoperator"], found["qdq"])
    # What is masked counts as little as in float: without its mask the network is far from that.
    real = next(run_batches(open_session(load(network)), [data], rows_only=False))[0]
    assert np.square(found["qdq"] - real).mean() < 0.05 * np.square(real).mean()


@pytest.mark.parametrize("mask", MASKS)
def test_what_no_sample_masks_is_masked_later(mask):
    """A network is calibrated on samples of full length: what is filled up later keeps 15 dB and more."""
    network, data = text_network(mask)
    tokens = np.where(data["tokens"] == 0, 5, data["tokens"])
    full = {"tokens": tokens} | {name: np.ones_like(data[name]) for name in data if name != "tokens"}
    qdq = qpipe.calibrate(network, full)
    for fed in (data, full):
        real = next(run_batches(open_session(load(network)), [fed], rows_only=False))[0]
        found = next(run_batches(open_session(qdq), [fed], rows_only=False))[0]
        assert np.square(found - real).mean() < 10**-1.5 * np.square(real).mean()
    qpipe.export(qdq, format="integer", data=data)


@pytest.mark.parametrize("kind", [6, 7])
def test_tokens_that_are_fed_as_floats(kind, tmp_path):
    """As Keras does where an input's type is not said: int32 (6) or int64 (7) by a Cast, and nothing else is float."""
    network = parse(
        f"(float[N,6] tokens) => (float[N,6,3] y) {{ i = Cast<to={kind}>(tokens) x = Gather(table, i) "
        "h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }",
        table=floats(11, 4), w1=floats(4, 8), w2=floats(8, 3),
    )  # fmt: skip
    tokens = RNG.integers(0, 11, (64, 6)).astype(np.float32)
    roles = qpipe.inspect(network).roles
    assert "float island" not in roles
    assert roles["looked up"] == 2
    qdq, found = qpipe.calibrate(network, tokens), []
    for format_ in FORMATS:
        exported = qpipe.export(qdq, format=format_, data=tokens)
        assert format_ != "integer" or float_tensors(exported) == []
        found.append(next(run_batches(open_session(exported), [tokens], rows_only=False))[0])
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[2])
    real = next(run_batches(open_session(load(network)), [tokens], rows_only=False))[0]
    assert np.square(found[2] - real).mean() < 0.05 * np.square(real).mean()
    with pytest.raises(LoweringError, match="makes tokens of the float input"):
        qpipe.export(qdq, format="integer", io="integer", data=tokens)
    np.savez(tmp_path / "data.npz", x=tokens, labels=RNG.integers(0, 3, (64, 6)))
    tuned = qpipe.finetune(qdq, tmp_path / "data.npz", epochs=1, batch_size=16)
    assert qpipe.export(tuned, format="integer", data=tokens) is not None
