"""How a QDQ network is exported, and how models are compared, timed and reported."""

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from qpipe.settings.base import Cpu, Format, InputShapes, Settings, Sizes, Split


class ShippingSettings(Settings):
    """What an export is told, whatever its format."""

    plain: bool = Field(default=False, description="refuse a network that still has its skip connections")
    cpu: Cpu = Field(default="portable", description="where the file must be exact: on every CPU, or with VNNI")
    weights: Literal["int8", "uint8"] = Field(
        default="int8", description="how weights are stored; uint8 is exact everywhere, and slower without VNNI"
    )
    io: Literal["float", "integer"] = Field(
        default="float", description="float: in the place of the original; integer: uint8 pixels to int32 logits"
    )
    integer_only: bool | None = Field(
        default=None,
        description="refuse float nodes between integers; by default with the format integer alone",
    )
    layout: Literal["NCHW", "NHWC"] = Field(default="NCHW", description="the axes of an integer input")

    @model_validator(mode="after")
    def _layout_is_of_integers(self) -> Self:
        if self.layout != "NCHW" and self.io == "float":
            raise ValueError(f"layout: '{self.layout}', but without effect, expected io 'integer' with it")
        return self


class ExportSettings(ShippingSettings):
    """QDQ network -> what ships."""

    format: Format = Field(default="qoperator", description="the form of the exported graph")

    @property
    def refuses_islands(self) -> bool:
        """`integer_only`, or what it is by default."""
        return self.format == "integer" if self.integer_only is None else self.integer_only

    @model_validator(mode="after")
    def _ends_are_of_the_format(self) -> Self:
        _check_ends(self.io, (self.format,))
        return self


class ExportsSettings(ShippingSettings):
    """A recipe's [export]: one file for each of the formats."""

    formats: Annotated[tuple[Format, ...], Strict(False), Field(min_length=1)] = ("qoperator",)

    @model_validator(mode="after")
    def _ends_are_of_every_format(self) -> Self:
        _check_ends(self.io, self.formats)
        return self

    def each(self) -> tuple[ExportSettings, ...]:
        """The settings of each file."""
        shared = {name: getattr(self, name) for name in ShippingSettings.model_fields}
        return tuple(ExportSettings(format=format_, **shared) for format_ in dict.fromkeys(self.formats))


def _check_ends(io: str, formats: tuple[Format, ...]) -> None:
    if io == "integer" and "qdq" in formats:
        raise ValueError(
            "io: 'integer', but a qdq file has float inputs and outputs, expected the format qoperator or integer"
        )


class ValidateSettings(Settings):
    """How models are compared."""

    batch_size: int = Field(default=256, ge=1, description="images in a batch")
    split: Split = Field(default="test", description="the part of the data")
    limit: int | None = Field(default=None, ge=1, description="compare on the first images only")


class BenchSettings(Settings):
    """How latency is measured, and on which data top-1."""

    batch_sizes: Sizes | None = Field(
        default=None, description="batch sizes, as in 1,8,32; by default 1, or what the models' files fix"
    )
    input_shape: InputShapes | None = Field(
        default=None, description="sizes of an input that models leave open, as x=3,224,224, for each of several"
    )
    repeats: int = Field(default=50, ge=1, description="timed runs of each model and batch size")
    seconds: float = Field(
        default=60, gt=0, description="of a model at a batch size, after which no more timed runs are begun"
    )
    threads: int | None = Field(
        default=None, ge=1, le=1024, description="threads of a session; by default the runtime's choice"
    )
    split: Split = Field(default="test", description="the part of the data")
    limit: int | None = Field(default=None, ge=1, description="count top-1 on the first images only")


class ReportSettings(Settings):
    """What a page of runs says besides them."""

    title: str | None = Field(default=None, description="the page's title")
    float_accuracy: float | None = Field(
        default=None, ge=0, le=1, description="top-1 of the float network, of 1, where no file tells it"
    )
