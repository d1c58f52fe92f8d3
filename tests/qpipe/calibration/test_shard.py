from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.calibration.shard import ALONE, Shard, current_shard
from support.processes import run_together


@given(st.integers(0, 20), st.integers(1, 6))
def test_shares_are_all_batches_once(total: int, count: int) -> None:
    shares = [list(Shard(index, count).share(range(total))) for index in range(count)]
    assert sorted(batch for share in shares for batch in share) == list(range(total))
    assert all(batch % count == index for index, share in enumerate(shares) for batch in share)


def test_alone_there_is_nothing_to_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [np.array([1.0, 2.0]), np.array([3.0, 4.0])]
    assert list(ALONE.in_order(iter(rows), 2)) == rows
    assert ALONE.largest(rows[0]) is rows[0]
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert current_shard() is ALONE


SCRIPT = """
import numpy as np
from support.networks import Network
from qpipe.arith.spec import QuantSpec
from qpipe.calibration.moments import measure_moments
from qpipe.calibration.observe import observe
from qpipe.calibration.rounding_error import least_error
from qpipe.calibration.shard import ALONE, current_shard
from qpipe.errors import DataError
from qpipe.processes import wait_for_all

shard = current_shard()
assert shard.count == 2
assert shard.largest(np.array([shard.index, -shard.index])).tolist() == [1, 0]
net = Network(3, 8, 8)
model = net.model(net.head(net.op("Relu", net.conv("x", 3, 8, bias=True), name="r"), 8))
for total in (1, 2, 5):
    rows = ([float(batch), 0.1 * batch] for batch in shard.share(range(total)))
    found = [row.tolist() for row in shard.in_order(map(np.array, rows), 2)]
    assert found == [[float(batch), 0.1 * batch] for batch in range(total)], found
    batches = [net.inputs(4 + seed, seed=seed, scale=1 + seed % 2) for seed in range(total)]
    one, two = (measure_moments(model, {"r_y": 8}, batches, shard=who)["r_y"] for who in (ALONE, shard))
    assert one.table.tobytes() == two.table.tobytes()
    one, two = (
        observe(model, {"x": 99.0, "r_y": 99.0}, batches, magnitudes=frozenset({"x"}), shard=who)
        for who in (ALONE, shard)
    )
    assert one == two
    grids = {"r_y": [QuantSpec.unsigned(4, exponent) for exponent in (-1, -2, -3, -4)]}
    one, two = (least_error(model, grids, batches, shard=who) for who in (ALONE, shard))
    assert one == two
for measure in (
    lambda: measure_moments(model, {"r_y": 8}, [], shard=shard),
    lambda: observe(model, {"r_y": 99.0}, [], magnitudes=frozenset(), shard=shard),
    lambda: least_error(model, grids, [], shard=shard),
):
    try:
        measure()
    except DataError as error:
        assert "no batch" in str(error)
    else:
        raise AssertionError("expected a DataError")
wait_for_all()
"""


@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path: Path) -> None:
    """Also where one of them has no batch, and the other one more."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run_together("script.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
