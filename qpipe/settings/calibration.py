"""How a float network becomes a QDQ network."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, JsonValue, Strict, model_validator

from qpipe.formats import DEFAULT, WeightQuantizer
from qpipe.settings.base import Bits, Cpu, Settings, Start, shown
from qpipe.settings.inputs import SeedSettings
from qpipe.settings.skips import SkipSettings, Stripping

if TYPE_CHECKING:
    from qpipe.formats.base import WeightFormat


_Batches = Annotated[int, Field(ge=1, description="training batches to run; the maximum over them counts")]
_BatchSize = Annotated[int, Field(ge=1, description="images in a batch")]
_Portability = Annotated[Cpu, Field(description="keep weights exact on x86 without VNNI too, or waive that")]


class AdoptSettings(Settings):
    """Another tool's quantized network -> QDQ network."""

    batches: _Batches = 5
    batch_size: _BatchSize = 256
    cpu: _Portability = "portable"


class CalibrateSettings(SkipSettings):
    """Float network -> QDQ network."""

    weight_bits: Bits = Field(default=8, description="bits of the weights; the first and the last layer keep 8")
    activation_bits: Bits = Field(default=8, description="bits of the activations")
    skip_bits: Bits | None = Field(
        default=None,
        description="bits at which a skip connection is carried; by default those of the activations, and no fewer; 16 "
        "of sums that LayerNormalization reads",
    )
    quantizer: WeightQuantizer = Field(
        default=DEFAULT,
        description="of the inner layers' weights: power-of-two steps (FAQ), DoReFa-Net's, LQ-Net's; bireal, "
        "groupnet: signs, of a residual network's activations too",
    )
    batches: _Batches = 5
    batch_size: _BatchSize = 256
    percentile: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="percentile of an activation's range; by default the width's own: 99.99 for 8 bits, 99.9 for 4",
    )
    weight_clip: float | None = Field(
        default=None,
        gt=0,
        description="clip of the weights in standard deviations; by default the largest weight at 8 bits, the width's "
        "own at fewer",
    )
    weight_rounding: Literal["ceil", "nearest"] | None = Field(
        default=None,
        description="the weights' power of two: that above their step, or the nearest; by default nearest below 8 bits",
    )
    activation_rounding: Literal["ceil", "nearest", "least-error", "fill"] | None = Field(
        default=None,
        description="the activations' power of two: above the percentile (ceil), the nearest, or that of the least "
        "error; fill: above it, and factors between layers fill it, with room for other samples; by default fill at "
        "8 bits",
    )
    fit_weights: bool | None = Field(
        default=None,
        description="choose weights' codes by the error at their layer's output, and take mean shifts off its bias; "
        "by default where they are pretrained and fixed-point",
    )
    per_channel: bool = Field(
        default=True, description="one weight scale for each output channel", json_schema_extra={"off": "per-tensor"}
    )
    rescale_channels: bool = Field(
        default=True,
        description="factors on channels that a BatchNormalization follows, so that their weights fill the grid; "
        "weights are not fitted without",
    )
    restore_batch_norm: bool = Field(
        default=True, description="a BatchNormalization, from measured statistics, where one was folded before export"
    )
    start: Start = Field(default="pretrained", description="random: forget the network's weights, a control experiment")
    ranges: Literal["data", "fixed"] = Field(
        default="data", description="fixed: an activation's range is that of its width, without calibration, a control"
    )
    cpu: _Portability = "portable"

    @property
    def stripping(self) -> Stripping:
        """How plain takes skips out."""
        return self.strip or ("refit" if self.start == "pretrained" else "cut")

    @property
    def fills_ranges(self) -> bool:
        """Whether factors between layers fill the ranges of activations."""
        if self.activation_rounding is not None:
            return self.activation_rounding == "fill"
        return self._is_plain and self.ranges == "data" and self.strip != "exact"

    @property
    def fits_weights(self) -> bool:
        """Whether weights are chosen by the error at their layer's output."""
        if self.fit_weights is not None:
            return self.fit_weights
        return self._holds_floats and self.ranges == "data" and self.rescale_channels

    @property
    def _is_plain(self) -> bool:
        """Whether pretrained weights and all tensors get 8 bits, on steps that nothing else was said of."""
        return self.weight_bits == self.activation_bits == 8 and self.skip_bits is None and self._holds_floats

    @property
    def _holds_floats(self) -> bool:
        """Whether weights stand for those of the float network, before any training."""
        return self.start == "pretrained" and self._format.holds_floats

    @property
    def _format(self) -> "type[WeightFormat]":
        from qpipe.formats.table import FORMATS

        return FORMATS[self.quantizer]

    @model_validator(mode="after")
    def _width_is_the_quantizers(self) -> Self:
        widths = self._format.widths
        if widths and self.weight_bits not in widths:
            raise ValueError(
                f"weight_bits: {self.weight_bits}, expected {widths[0]} to {widths[-1]} with the quantizer "
                f"'{self.quantizer}'"
            )
        return self

    @model_validator(mode="after")
    def _binary_has_one_bit(self) -> Self:
        if self._format.rebuild is None:
            return self
        for name in ("weight_bits", "activation_bits", "skip_bits"):
            bits = getattr(self, name)
            if bits not in {8, None}:
                raise ValueError(
                    f"{name}: {bits}, expected none with the quantizer '{self.quantizer}': a binary network has one bit"
                )
        if self.activation_rounding in {"least-error", "fill"}:
            raise ValueError(
                f"activation_rounding: '{self.activation_rounding}', expected 'ceil' or 'nearest' with "
                f"'{self.quantizer}'"
            )
        return self

    @model_validator(mode="after")
    def _fits_what_is_trained(self) -> Self:
        given = {"fit_weights": self.fit_weights, "activation_rounding": self.activation_rounding == "fill"}
        if self.fit_weights and not self.rescale_channels:
            raise ValueError("fit_weights: true, expected it with rescale_channels")
        no_factors = self.skip_bits is not None or self.ranges == "fixed" or self.strip == "exact"
        if given["activation_rounding"] and no_factors:
            raise ValueError(
                "activation_rounding: 'fill', expected another with skip_bits, fixed ranges or strip 'exact'"
            )
        name = next((name for name, is_given in given.items() if is_given), None)
        if name is not None and not self._holds_floats:
            expected = "weights that are pretrained" if self._format.holds_floats else "fixed-point weights"
            raise ValueError(f"{name}: {shown(getattr(self, name))}, expected it with {expected} alone")
        return self

    @model_validator(mode="after")
    def _random_weights_give_nothing_to_fit(self) -> Self:
        if self.start == "random" and self.strip not in {None, "cut"}:
            raise ValueError(f"strip: '{self.strip}', expected 'cut' with random weights")
        return self

    @model_validator(mode="after")
    def _format_takes_it(self) -> Self:
        for name in ("weight_clip", "weight_rounding"):
            if name not in self._format.takes and (value := getattr(self, name)) is not None:
                raise ValueError(f"{name}: {value}, expected none with the quantizer '{self.quantizer}'")
        if not self.per_channel and "per_channel" not in self._format.takes:
            raise ValueError(f"per_channel: false, expected true with the quantizer '{self.quantizer}'")
        return self

    @model_validator(mode="after")
    def _skips_are_no_narrower(self) -> Self:
        if self.skip_bits is not None and self.skip_bits < self.activation_bits:
            raise ValueError(f"skip_bits: {self.skip_bits}, expected activation_bits, {self.activation_bits}, or more")
        return self

    @model_validator(mode="after")
    def _fixed_ranges_have_no_data(self) -> Self:
        if self.ranges == "fixed" and self._format.learned_widths:
            raise ValueError(f"ranges: 'fixed', expected 'data' with the quantizer '{self.quantizer}'")
        if self.ranges == "fixed" and self.activation_rounding not in {None, "ceil"}:
            raise ValueError(f"activation_rounding: '{self.activation_rounding}', expected 'ceil' with fixed ranges")
        return self


class LayerSettings(Settings):
    """What the layers of some names are told, apart from the others: an entry of a recipe's [[layer]]."""

    match: str = Field(min_length=1, description="a pattern of the names that `qpipe inspect` shows, as layer3.*")
    weight_bits: Bits | None = Field(default=None, description="bits of the layer's weights")
    activation_bits: Bits | None = Field(default=None, description="bits of the layer's output")
    weight_clip: float | None = Field(default=None, gt=0, description="clip of its weights in standard deviations")
    stays_float: bool | None = Field(
        default=None,
        description="it stays float, though it has an integer form; false: not, though it would by itself",
    )

    @model_validator(mode="after")
    def _is_either(self) -> Self:
        if self.stays_float is not None and any((self.weight_bits, self.activation_bits, self.weight_clip)):
            raise ValueError(f"layer {shown(self.match)}: stays_float, expected by itself, without widths and clips")
        return self

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set - {"match"}:
            options = ", ".join(name for name in type(self).model_fields if name != "match")
            raise ValueError(f"layer {shown(self.match)}: nothing given, expected at least one of {options}")
        return self


class LayersSettings(Settings):
    """What some layers are told."""

    layers: Annotated[tuple[LayerSettings, ...], Strict(False)] = Field(
        default=(),
        description="what some layers are told, as {'match': 'layer3.*', 'weight_bits': 4}, with activation_bits (of "
        "the layer's output) and weight_clip too, or with stays_float alone; match is a pattern of the names that "
        "`inspect` shows, or of what follows a '/' in them; it goes before the widths of all, also for what keeps 8 "
        "bits otherwise",
    )


class CalibrationRecord(CalibrateSettings, LayersSettings, SeedSettings):
    """How a file was calibrated, as it says itself; but for its skips, of which there is a record apart."""

    @classmethod
    def of(cls, *settings: Settings) -> "CalibrationRecord":
        """Of what the verb was told."""
        told = {name: value for each in settings for name, value in each.arguments().items()}
        return cls(**{name: value for name, value in told.items() if name not in SkipSettings.model_fields})

    def to_json(self) -> dict[str, JsonValue]:
        """What the file says."""
        said: dict[str, JsonValue] = self.model_dump(mode="json", exclude=set(SkipSettings.model_fields))
        said["layers"] = [entry.model_dump(mode="json", exclude_none=True) for entry in self.layers]
        return said
