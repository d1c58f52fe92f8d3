"""How a QDQ network is exported, and how models are compared and timed."""

from typing import Literal

from pydantic import Field

from qpipe.settings.base import Cpu, Settings, Sizes


class ExportSettings(Settings):
    """QDQ network -> what ships; the formats are a recipe's list and the command's option."""

    plain: bool = Field(default=False, description="refuse a network that still has its skip connections")
    cpu: Cpu = Field(default="portable", description="the CPUs on which the file must be exact")
    weights: Literal["int8", "uint8"] = Field(
        default="int8", description="how weights are stored; uint8 is exact everywhere"
    )
    io: Literal["float", "integer"] = Field(
        default="float", description="float: in the place of the original; integer: uint8 pixels to int32 logits"
    )
    layout: Literal["NCHW", "NHWC"] = Field(default="NCHW", description="the axes of an integer input")


class ValidateSettings(Settings):
    """How models are compared."""

    batch_size: int = Field(default=256, ge=1, description="images in a batch")
    split: Literal["train", "val", "test"] = Field(default="test", description="the part of the data")
    limit: int | None = Field(default=None, ge=1, description="compare on the first images only")


class BenchSettings(Settings):
    """How latency is measured, and on which data top-1."""

    batch_sizes: Sizes = Field(default=(1,), description="batch sizes, as in 1,8,32")
    repeats: int = Field(default=50, ge=1, description="timed runs of each model and batch size")
    threads: int | None = Field(default=None, ge=1, description="threads of a session; by default the runtime's choice")
    split: Literal["train", "val", "test"] = Field(default="test", description="the part of the data")
    limit: int | None = Field(default=None, ge=1, description="count top-1 on the first images only")
