"""How a network is trained: the schedule and its company, and the arithmetic of the products."""

from typing import Any, Self

from pydantic import Field, model_validator

from qpipe.settings.arithmetic import ArithmeticSettings
from qpipe.settings.base import Start
from qpipe.settings.training import TrainingSettings


class FinetuneSettings(ArithmeticSettings, TrainingSettings):
    """QDQ network (or float, with an arithmetic or plain) -> trained network of the same kind.

    Of a float network plain alone makes a QDQ one, and plain with the arithmetic "float" a plain float network.

    A training recipe is a value of this, and so is a run that was completed from one (`qpipe/settings/recipes.py`).
    """

    start: Start = Field(
        default="pretrained", description="random: forget a float network's weights, to train it from scratch"
    )

    @model_validator(mode="after")
    def _random_weights_are_a_float_networks(self) -> Self:
        if self.start == "random" and (self.arithmetic is None or self.plain):
            raise ValueError("start: 'random', expected it with an arithmetic, of a float network, and without plain")
        return self

    @model_validator(mode="after")
    def _sums_are_float32(self) -> Self:
        if self.arithmetic == "mls" and self.precision != "fp32":
            raise ValueError(f"precision: '{self.precision}', expected 'fp32' with the arithmetic 'mls'")
        return self

    def of_training(self) -> dict[str, Any]:
        """The fields by name that trained weights depend on, besides the network."""
        values = super().of_training()
        if self.arithmetic == "mls":
            return values
        unread = {name for name, note in self.said_by_recipes().items() if note.needs == "the arithmetic 'mls'"}
        return {name: value for name, value in values.items() if name not in unread}
