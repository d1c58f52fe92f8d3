"""The arguments of each stage: names, types, limits, defaults and the line of help, once.

A recipe's tables and the command line's options are both made from these models (`qpipe/recipe.py`,
`qpipe/cli/options.py`); the verbs in `qpipe/verbs/` take the same names. Types are strict: `"5"` is no integer.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

from qpipe.errors import RecipeError
from qpipe.finetune_recipes import Draws, Fragments, Method, Optimizer, Precision, RecipeName, ScheduleName

Cpu = Literal["portable", "vnni"]
Format = Literal["qoperator", "integer", "qdq"]
Bits = Literal[2, 3, 4, 5, 6, 7, 8]
WeightQuantizer = Literal["fixed-point", "dorefa", "lq"]
Floats = Annotated[tuple[float, ...], Strict(False), Field(min_length=1)]
Epochs = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Strict(False), Field(min_length=1)]
Sizes = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Strict(False), Field(min_length=1)]


class Settings(BaseModel):
    """The arguments of one stage; a key that no field has is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def arguments(self) -> dict[str, Any]:
        """The fields by name, as keyword arguments for the verb."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class TorchSettings(Settings):
    """What a PyTorch model needs besides its name."""

    weights: str | None = Field(default=None, description="weights of a PyTorch model: a .safetensors, or a .pth file")
    input_shape: Sizes | None = Field(default=None, description="a PyTorch model's input without the batch: 3,32,32")


class ModelSettings(TorchSettings):
    """Where the float network comes from."""

    path: str = Field(description="an .onnx file, package.module:factory, torchvision:NAME or timm:NAME")


class DataSettings(Settings):
    """Where images and labels come from."""

    path: str = Field(description="a folder of class folders, an .npz, digits, or package.module:factory")


class PreprocessSettings(Settings):
    """What makes an image the network's input; what is not given is what the model's file says."""

    mean: Floats | None = Field(default=None, description="mean of each channel, of pixels / 255 * pixel_range")
    std: Floats | None = Field(default=None, description="standard deviation of each channel, as mean")
    resize: int | None = Field(default=None, ge=1, description="resize the short side to this many pixels")
    crop: int | None = Field(default=None, ge=1, description="crop this many pixels square from the centre")
    color: Literal["RGB", "BGR", "GRAY"] | None = Field(default=None, description="the order of the channels")
    layout: Literal["NCHW", "NHWC"] | None = Field(default=None, description="the order of the input's axes")
    pixel_range: Literal[1, 255] | None = Field(default=None, description="a white pixel before mean and std: 1 or 255")

    def overrides(self) -> dict[str, Any] | None:
        """The fields that were given, under the names that the verbs know, or None where none was."""
        given = {name: value for name, value in self.arguments().items() if value is not None}
        if "pixel_range" in given:
            given["pixel_max"] = given.pop("pixel_range")
        return given or None


class CalibrateSettings(Settings):
    """Float network -> QDQ network."""

    weight_bits: Bits = Field(default=8, description="bits of the weights; the first and the last layer keep 8")
    activation_bits: Bits = Field(default=8, description="bits of the activations")
    skip_bits: Bits | None = Field(
        default=None, description="bits at which a skip connection is carried; by default those of the activations"
    )
    quantizer: WeightQuantizer = Field(
        default="fixed-point",
        description="of the inner layers' weights: power-of-two steps (FAQ), DoReFa-Net's, LQ-Net's",
    )
    batches: int = Field(default=5, ge=1, description="training batches to run; the maximum over them counts")
    batch_size: int = Field(default=256, ge=1, description="images in a batch")
    percentile: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="percentile of an activation's range; by default the width's own: 99.99 for 8 bits, 99.9 for 4",
    )
    weight_clip: float | None = Field(
        default=None, gt=0, description="clip of the weights in standard deviations; by default the width's own"
    )
    weight_rounding: Literal["ceil", "nearest"] | None = Field(
        default=None,
        description="the weights' power of two: that above their step, or the nearest; by default nearest below 8 bits",
    )
    activation_rounding: Literal["ceil", "nearest", "least-error"] = Field(
        default="ceil",
        description="the activations' power of two: above the percentile, the nearest, or that of the least error",
    )
    per_channel: bool = Field(
        default=True, description="one weight scale for each output channel", json_schema_extra={"off": "per-tensor"}
    )
    restore_batch_norm: bool = Field(
        default=True, description="a BatchNormalization, from measured statistics, where one was folded before export"
    )
    start: Literal["pretrained", "random"] = Field(
        default="pretrained", description="random: forget the network's weights, a control experiment"
    )
    ranges: Literal["data", "fixed"] = Field(
        default="data", description="fixed: an activation's range is that of its width, without calibration, a control"
    )
    cpu: Cpu = Field(default="portable", description="keep weights exact on x86 without VNNI too, or waive that")

    @model_validator(mode="after")
    def _dorefa_has_seven_bits(self) -> Self:
        if self.quantizer == "dorefa" and self.weight_bits == 8:
            raise ValueError("weight_bits: 8, expected 2 to 7 with the quantizer 'dorefa'")
        return self

    @model_validator(mode="after")
    def _lq_has_four_bits(self) -> Self:
        if self.quantizer == "lq" and self.weight_bits > 4:
            raise ValueError(f"weight_bits: {self.weight_bits}, expected 2 to 4 with the quantizer 'lq'")
        return self

    @model_validator(mode="after")
    def _fixed_ranges_have_no_data(self) -> Self:
        if self.ranges == "fixed" and self.activation_rounding != "ceil":
            raise ValueError(f"activation_rounding: '{self.activation_rounding}', expected 'ceil' with fixed ranges")
        return self


class LayerSettings(Settings):
    """What the layers of some names are told, apart from the others: an entry of a recipe's [[layer]]."""

    match: str = Field(min_length=1, description="a pattern of the names that `qpipe inspect` shows, as layer3.*")
    weight_bits: Bits | None = Field(default=None, description="bits of the layer's weights")
    activation_bits: Bits | None = Field(default=None, description="bits of the layer's output")
    weight_clip: float | None = Field(default=None, gt=0, description="clip of its weights in standard deviations")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set - {"match"}:
            options = ", ".join(name for name in type(self).model_fields if name != "match")
            raise ValueError(f"layer '{self.match}': nothing given, expected at least one of {options}")
        return self


class FinetuneSettings(Settings):
    """QDQ network -> trained QDQ network. What is not given is what the training recipe says."""

    method: Method = Field(default="faq", description="the training method: FAQ's, or with AG's auxiliary gradients")
    plain: bool = Field(default=False, description="strip the skip connections, and train without them")
    blocks: str = Field(default="*", description="the residual blocks to strip with --plain, as layer3.*")
    recipe: RecipeName | None = Field(
        default=None,
        description="the papers' values for every option below: faq-8bit, or ag, or plain, by the two above",
    )
    epochs: int | None = Field(
        default=None, ge=1, description="passes over the training images; a recipe's schedule keeps its proportions"
    )
    lr: float | None = Field(default=None, gt=0, description="learning rate, at first")
    schedule: ScheduleName | None = Field(default=None, description="how the learning rate falls")
    lr_end: float | None = Field(default=None, gt=0, description="the rate at the end of the schedule")
    milestones: Epochs | None = Field(
        default=None, description="epochs at which a step schedule divides the rate by 10, as in 30,60,90"
    )
    grow_at: Epochs | None = Field(
        default=None, description="epochs at which batches double, by averaging gradients over twice as many"
    )
    optimizer: Optimizer | None = Field(default=None, description="what applies the gradients")
    momentum: float | None = Field(default=None, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float | None = Field(default=None, ge=0, description="weight decay of the optimizer")
    batch_size: int | None = Field(default=None, ge=1, description="images in a batch, over all processes together")
    teacher: str | None = Field(
        default=None, description="distil from 'float', the network before it was quantized, or an .onnx; or 'none'"
    )
    teacher_weight: float | None = Field(default=None, ge=0, le=1, description="the teacher's part of the loss")
    temperature: float | None = Field(default=None, gt=0, description="what distillation divides the logits by")
    auxiliary_weight: float | None = Field(
        default=None, gt=0, description="lambda of AG: the weight of its auxiliary network's loss"
    )
    layerwise: bool | None = Field(default=None, description="AG: a branch at every convolution of a block")
    ssp: bool | None = Field(default=None, description="stochastic structured precision")
    ssp_ratio: float | None = Field(
        default=None, ge=0, le=1, description="delta of SSP at first: how much is left unquantized"
    )
    ssp_end: float | None = Field(default=None, gt=0, le=1, description="the part of the run after which delta is 0")
    ssp_fragments: Fragments | None = Field(default=None, description="what SSP draws: residual blocks, or layers")
    ssp_draws: Draws | None = Field(
        default=None, description="SSP: draws for weights and activations apart, or one for both"
    )
    fade: float | None = Field(
        default=None, ge=0, le=1, description="the part of the run over which stripped skips fade away, with --plain"
    )
    additional_losses: float | None = Field(
        default=None, ge=0, description="alpha: the weight of losses at the end of each downsampling block; 0: none"
    )
    joint_distillation: float | None = Field(
        default=None, ge=0, description="beta: how much a full-precision copy that trains along guides; 0: no copy"
    )
    batch_norm: Literal["running", "batch"] = Field(
        default="batch", description="the statistics that training normalizes by"
    )
    precision: Precision = Field(
        default="fp32", description="of training's float tensors; evaluation and export are exact in both"
    )
    crop_padding: int | None = Field(
        default=None,
        ge=0,
        description="black pixels around an image before the random crop; by default where data are images",
    )
    flip: bool | None = Field(default=None, description="random horizontal flip; by default where data are images")
    evaluate: bool = Field(default=True, description="count the accuracy before and after")
    evaluate_every: int | None = Field(default=None, ge=1, description="count the accuracy after every so many epochs")
    diagnose: bool = Field(default=False, description="measure the noise of quantization, for `qpipe report`")
    checkpoint_every: int | None = Field(
        default=None, ge=1, description="updates between checkpoints; there is one after every epoch anyway"
    )


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


S = TypeVar("S", bound=BaseModel)


def validated(model: type[S], values: object, describe: Callable[[Sequence[int | str]], str]) -> S:
    """`values` as a `model`, or a RecipeError of one line; `describe` turns a location into the user's word for it."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        # A list with a wrong item is also reported as a list that is too short: the item is the news.
        parents = {problem["loc"][:-1] for problem in problems}
        news = [problem for problem in problems if problem["type"] != "too_short" or problem["loc"] not in parents]
        raise RecipeError("; ".join(_explain(model, problem, describe) for problem in news)) from None


def _explain(model: type[BaseModel], problem: Any, describe: Callable[[Sequence[int | str]], str]) -> str:
    """One problem in the user's words: the key, what was found, what was expected."""
    location: tuple[int | str, ...] = problem["loc"]
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        near = get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
        return f"{describe(location)}: unknown key, {hint}"
    if problem["type"] == "missing":
        return f"{describe(location)}: missing, but required"
    if problem["type"] == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    expected = str(problem["msg"]).removeprefix("Input should be ").removeprefix("a valid dictionary or instance of ")
    expected = {"model_type": "a table", "too_short": "at least one item"}.get(problem["type"], expected)
    return f"{describe(location)}: {problem['input']!r}, expected {expected}"


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys of the model that lies at `location` within `model`."""
    for part in (part for part in location if isinstance(part, str)):
        annotation = next(
            field.annotation for name, field in model.model_fields.items() if (field.alias or name) == part
        )
        for candidate in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return [field.alias or name for name, field in model.model_fields.items()]
