from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.arith.quantize import dequantize, quantize
from qpipe.arith.spec import QuantSpec
from qpipe.calibration import rounding_error
from qpipe.calibration.rounding_error import least_error, squared_errors
from qpipe.calibration.shard import Float64Array, Shard
from qpipe.errors import DataError
from support.networks import Network

FLOAT32 = 1e-6  # the difference is rounded to float32 before it is squared

GRIDS = [QuantSpec.signed(4, exponent) for exponent in (0, -1, -2, -3)]


@given(seed=st.integers(0, 1000), count=st.integers(0, 3000), strip=st.sampled_from([1, 7, 1000, 2**16]))
def test_errors_by_definition(seed: int, count: int, strip: int) -> None:
    tensor = np.random.default_rng(seed).standard_normal((count, 1)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding_error, "_STRIP", strip)
        found = squared_errors(tensor, GRIDS)
    for grid, error in zip(GRIDS, found, strict=True):
        whole = np.square(tensor.astype(np.float64) - dequantize(quantize(tensor.astype(np.float64), grid), grid))
        assert error == pytest.approx(whole.sum(), rel=FLOAT32)


def test_narrow_and_wide_tensors_find_their_grid() -> None:
    net = Network(3, 8, 8)
    model = net.model(net.head(net.op("Relu", net.conv("x", 3, 8), name="r"), 8))
    for scale, expected in ((0.1, 3), (50.0, 0)):
        batches = [net.inputs(seed=seed, scale=scale) for seed in (1, 2, 3)]
        assert least_error(model, {"x": GRIDS}, batches)["x"] == expected


def test_of_equals_the_first() -> None:
    net = Network(3, 8, 8)
    assert least_error(net.model(net.conv("x", 3, 4)), {"x": GRIDS}, [0 * net.inputs()])["x"] == 0


class Rows(Shard):
    """One process that keeps the rows that it would send."""

    def in_order(self, rows: Iterable[Float64Array], width: int) -> Iterator[Float64Array]:
        for row in rows:
            assert row.shape == (width,)
            SENT.append(row)
            yield row


SENT: list[Float64Array] = []


def test_one_row_a_batch_so_that_processes_can_share_them() -> None:
    """Each batch's sums are the same in whichever process it runs."""
    net = Network(3, 8, 8)
    y = net.head(net.op("Relu", net.conv("x", 3, 8), name="r"), 8)
    batches = [net.inputs(5, seed=seed) for seed in range(3)]
    grids = {"x": GRIDS, "r_y": [QuantSpec.unsigned(4, e) for e in (0, -1, -2, -3)]}
    SENT.clear()
    least_error(net.model(y), grids, batches, shard=Rows())
    for batch in batches:
        least_error(net.model(y), grids, [batch], shard=Rows())
    np.testing.assert_array_equal(SENT[:3], SENT[3:])


def test_no_batch() -> None:
    net = Network(3, 8, 8)
    with pytest.raises(DataError, match="no batch"):
        least_error(net.model(net.conv("x", 3, 4)), {"x": GRIDS}, [])
