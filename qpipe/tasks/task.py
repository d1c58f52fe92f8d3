"""A task: the one description that training and judging are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from qpipe.settings.task import LOSS_WORDS


@dataclass(frozen=True)
class Ending:
    """Where training takes what it computes a loss of.

    value: the name of the value; "" is the first that leaves the last layers. skipped: names of the values of nodes
    that are looked through, such as a Softmax's. rows: whether an image's numbers are one row. class_axis: of maps.
    """

    value: str = ""
    skipped: frozenset[str] = frozenset()
    rows: bool = True
    class_axis: int = 1


@dataclass(frozen=True)
class Task:
    """What a network is for.

    output: name and position of the output that counts. loss: a name of `LossName` or a function of the user's, None
    where nothing trains. metric: a name, a function, or None where nothing can be judged. columns: the classes, labels
    or numbers of an image or pixel. is_dense: whether each pixel has its own. class_axis: of dense scores. threshold:
    above which an answer is yes. is_choice: whether the output names classes itself. has_labels: False where a teacher
    alone trains. ending: what the loss reads. said: how it was come by, one line.
    """

    output: str = ""
    position: int = 0
    loss: str | Callable[..., Any] | None = "cross-entropy"
    metric: str | Callable[..., Any] | None = "top-1"
    columns: int = 0
    is_dense: bool = False
    class_axis: int = 1
    threshold: float = 0.0
    is_choice: bool = False
    ignore_label: int | None = None
    has_labels: bool = True
    ending: Ending = field(default_factory=Ending)
    said: str = ""

    @property
    def tells_classes(self) -> bool:
        """Whether an image has one class of several."""
        return self.loss == "cross-entropy" and not self.is_dense

    @property
    def knows_right(self) -> bool:
        """Whether there are right answers to count, on the images that train too."""
        return self.has_labels and isinstance(self.loss, str) and self.loss != "mse"

    @property
    def metric_name(self) -> str:
        """What tables and JSON call the metric."""
        return name_of(self.metric) if self.metric is not None else "none"

    def to_json(self) -> dict[str, JsonValue]:
        """What a trained file and a report keep of it."""
        return {
            "output": self.output,
            "loss": None if self.loss is None else name_of(self.loss),
            "metric": None if self.metric is None else self.metric_name,
            "said": self.said,
        }


CLASSES = Task()
"""Class scores in the first output."""
UNKNOWN = Task(loss=None, metric=None)
"""Nothing is known of what outputs mean."""


def name_of(thing: str | Callable[..., Any]) -> str:
    """A loss's or metric's own name, or a function's."""
    return thing if isinstance(thing, str) else str(getattr(thing, "__name__", type(thing).__name__))


def loss_words(loss: str | Callable[..., Any]) -> str:
    """A loss in words."""
    return LOSS_WORDS[loss] if isinstance(loss, str) else f"the loss '{name_of(loss)}'"
