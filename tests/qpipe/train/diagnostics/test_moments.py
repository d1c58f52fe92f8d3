from hypothesis import given
from hypothesis import strategies as st

from qpipe.train.diagnostics.moments import moments


def due(updates: int | None, until: int) -> list[int]:
    is_due = moments(updates)
    return [step for step in range(1, until + 1) if is_due(step)]


def test_quarters_and_both_ends() -> None:
    assert due(9, 20) == [1, 3, 5, 7, 9]
    assert due(390, 1000) == [1, 98, 195, 292, 390]
    assert due(2, 5) == [1, 2]
    assert due(1, 5) == [1]
    assert due(None, 2000) == [1, 10, 100, 1000]


@given(st.integers(1, 2000))
def test_a_run_is_seen_from_its_first_update_to_its_last(updates: int) -> None:
    found = due(updates, updates + 100)
    assert (found[0], found[-1]) == (1, updates)
    assert len(found) == min(updates, 5)
