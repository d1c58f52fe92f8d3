"""A network that guesses is told of: at first, or where training has lost what it knew."""

import warnings
from collections.abc import Sequence

import pytest

from qpipe.tasks.task import Task
from qpipe.verbs.phases import warn_of_float, warn_of_training


def task(classes: int, metric: str = "top-1") -> Task:
    return Task(columns=classes, metric=metric)


def test_a_float_network_of_ten_classes_guesses_up_to_fifteen_percent() -> None:
    with pytest.warns(UserWarning, match=r"^the float network's top-1 is 14\.90 %, about chance: is the preprocessing"):
        warn_of_float(0.149, task(10))


def test_training_that_lost_what_the_network_knew() -> None:
    message = r"^the trained network's top-1 is 10\.00 %, about chance: training has lost what it knew, expected a low"
    with pytest.warns(UserWarning, match=message):
        warn_of_training([0.9, 0.1], 0.1, task(10))


@pytest.mark.parametrize(
    ("before", "after", "classes"),
    [
        ([0.9], 0.151, 10),
        ([0.9], None, 10),
        ([0.9], 0.1, 0),
        # What never knew anything lost nothing; of a float network it was said before.
        ([0.1, None], 0.1, 10),
        ([], 0.1, 10),
    ],
)
def test_nothing_is_told(before: Sequence[float | None], after: float | None, classes: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_training(before, after, task(classes))
        warn_of_float(after if classes != 10 else 0.151, task(classes))


@pytest.mark.parametrize(("classes", "limit"), [(2, 0.5278), (10, 0.15), (1000, 0.0565)])
def test_of_few_classes_a_network_that_knows_little_is_not_near_chance(classes: int, limit: float) -> None:
    with pytest.warns(UserWarning, match="about chance"):
        warn_of_float(limit - 0.001, task(classes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_float(limit + 0.001, task(classes))


def test_of_other_metrics_nobody_knows_what_guessing_gives() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_float(0.01, task(10, "mse"))
        warn_of_training([0.9], -1.0, task(10, "psnr"))
