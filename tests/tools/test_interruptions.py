"""A few of the interruptions of `tools/interruptions.py`: nothing may be lost, whatever moment is drawn."""

from pathlib import Path

import onnx
from interruptions import interrupt

from support.zoo.digits import digits_model

TIMES = {"SIGKILL": 1, "SIGTERM": 1, "full disk": 1, "two at once": 1}


def small(path: Path) -> None:
    onnx.save_model(digits_model(), path)


def test_training_that_is_killed_filled_up_or_doubled_loses_nothing() -> None:
    counts = interrupt(TIMES, jobs=["finetune"], seed=1, network=small)
    assert {kind: count.times for kind, count in counts.items()} == TIMES
    assert [text for count in counts.values() for text in count.told] == []
    assert all(count.is_clean for count in counts.values()), counts
