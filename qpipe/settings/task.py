"""What a network is for: the output that counts, the loss that trains it, the metric that judges it."""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

from pydantic import Field, GetPydanticSchema, ValidatorFunctionWrapHandler, WrapValidator

from qpipe.settings.base import Settings

LossName = Literal["cross-entropy", "binary", "multi-label", "mse"]
MetricName = Literal["top-1", "top-5", "accuracy", "f1", "mse", "psnr", "miou"]


def _own_or_named(value: Any, named: ValidatorFunctionWrapHandler) -> Any:
    return value if callable(value) else named(value)


LossLike = Annotated[
    LossName | Callable[..., Any],
    GetPydanticSchema(lambda _, schema_of: schema_of(Annotated[LossName, WrapValidator(_own_or_named)])),
]
MetricLike = Annotated[
    MetricName | Callable[..., Any],
    GetPydanticSchema(lambda _, schema_of: schema_of(Annotated[MetricName, WrapValidator(_own_or_named)])),
]
LOSS_WORDS: Final[dict[str, str]] = {
    "cross-entropy": "cross entropy",
    "binary": "binary cross entropy",
    "multi-label": "binary cross entropy of each label",
    "mse": "mean squared error",
}

METRIC_UNITS: Final[dict[str, str]] = {
    **dict.fromkeys(("top-1", "top-5", "accuracy", "f1", "miou"), "%"),
    "psnr": "dB",
}
"""A share of 1 is shown as percent; what is not named here has no unit of its own."""


class TaskSettings(Settings):
    """What is not given is derived from the network's outputs and the labels, and said; where that leaves a choice, it
    is asked for.
    """

    output_name: str | None = Field(default=None, description="the output of the network that counts")
    loss: LossLike | None = Field(
        default=None, description="what training minimizes; by default what the output and the labels leave"
    )
    metric: MetricLike | None = Field(
        default=None, description="what the network is judged by; by default that of the loss"
    )
    ignore_label: int | None = Field(
        default=None, description="the class in label maps, as 255, that neither loss nor metric counts"
    )
