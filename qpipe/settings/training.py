"""How a QDQ network is trained."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from qpipe.settings.base import Epochs, Exact, FilePath
from qpipe.settings.said_by_recipe import OfAg, OfRecipe, OfScales, OfSgd, OfSsp, OfTeacher, SaidByRecipe
from qpipe.settings.skips import SkipSettings, Stripping

Precision = Literal["fp32", "bf16"]
Method = Literal["faq", "ag"]
BatchNormMode = Literal["running", "batch"]
Optimizer = Literal["sgd", "adam"]
Fragments = Literal["blocks", "layers"]
Draws = Literal["apart", "together"]
Schedule = Literal["constant", "exponential", "step", "linear", "cosine"]
ActivationGradient = Literal["codes", "ymax"]
RecipeName = Literal[
    "faq-8bit",
    "faq-4bit",
    "faq-4bit-step",
    "faq-4bit-growing",
    "faq-cifar-8bit",
    "faq-cifar-4bit",
    "faq-scratch-exp",
    "faq-scratch-step",
    "distilled-4bit",
    "ag",
    "ag-binary",
    "plain",
    "mls-cifar",
    "mls-imagenet",
]

FLOAT_TEACHER: Final = "float"
"""The teacher that the QDQ file itself still holds."""
NO_TEACHER: Final = "none"
"""What turns a recipe's teacher off."""
# What chooses the network, looks on, or names the values: the weights depend on all the others.
_BESIDE_THE_TRAINING: Final = frozenset(
    {"plain", "blocks", "strip", "start", "recipe", "evaluate", "evaluate_every", "diagnose", "checkpoint_every"}
)


class TrainingSettings(SkipSettings):
    """What trains, by which schedule, in whose company; the defaults of what recipes say are those of faq-8bit."""

    method: Method = Field(default="faq", description="the training method: FAQ's, or with AG's auxiliary gradients")
    recipe: RecipeName | None = Field(
        default=None,
        description="values for every option from epochs to joint distillation; by default plain where skips are "
        "stripped, mls-cifar of a float network, else faq-8bit, or ag with the method ag",
    )
    epochs: OfRecipe[int] = Field(
        default=1, ge=1, description="passes over the training images; a recipe's schedule keeps its proportions"
    )
    lr: OfRecipe[float] = Field(default=1e-4, gt=0, description="learning rate, at first")
    schedule: OfRecipe[Schedule] = Field(
        default="constant",
        description="how the learning rate falls: by one factor an epoch from lr to lr_end, by 10 at each milestone, "
        "or at every update, linearly or along half a cosine",
    )
    lr_end: OfRecipe[float | None] = Field(
        default=None, gt=0, description="the rate at the end of the schedule; linear and cosine end at 0 by default"
    )
    warmup: OfRecipe[Exact] = Field(
        default=Fraction(0), ge=0, description="epochs over which the rate rises linearly from 0, at first"
    )
    milestones: OfRecipe[Epochs] = Field(
        default=(), description="epochs at which a step schedule divides the rate by 10, as in 30,60,90"
    )
    grow_at: OfRecipe[Epochs] = Field(
        default=(), description="epochs at which batches double, by averaging gradients over twice as many"
    )
    optimizer: OfRecipe[Optimizer] = Field(default="sgd", description="what applies the gradients")
    momentum: OfSgd[float] = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: OfRecipe[float] = Field(default=1e-4, ge=0, description="weight decay of the optimizer")
    batch_size: OfRecipe[int] = Field(default=256, ge=1, description="images in a batch, over all processes together")
    gradient_clip: OfRecipe[float] = Field(
        default=0.0, ge=0, description="the longest gradient of a channel's weights, in their own length; 0: any"
    )
    ema: OfRecipe[float] = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="decay of a moving average of the weights, which is what is written, with statistics estimated "
        "anew; 0.999 is usual; 0: the weights themselves",
    )
    hold_out: OfRecipe[float] = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="the part of the training images that is not trained on: the epoch that is best on it is written; "
        "0: none, and the last epoch is",
    )
    teacher: OfRecipe[FilePath | None] = Field(
        default=None, description="distil from 'float', the network before it was quantized, or an .onnx; or 'none'"
    )
    teacher_weight: OfTeacher[float] = Field(default=0.7, ge=0, le=1, description="the teacher's part of the loss")
    temperature: OfTeacher[float] = Field(default=4.0, gt=0, description="what distillation divides the logits by")
    auxiliary_weight: OfAg[float] = Field(
        default=1.0, gt=0, description="lambda of AG: the weight of its auxiliary network's loss"
    )
    layerwise: OfAg[bool] = Field(default=False, description="AG: a branch at every convolution of a block")
    ssp: OfRecipe[bool] = Field(default=False, description="stochastic structured precision")
    ssp_ratio: OfSsp[float] = Field(
        default=0.5, ge=0, le=1, description="delta of SSP at first: how much is left unquantized"
    )
    ssp_end: OfSsp[Exact] = Field(
        default=Fraction(20, 35), gt=0, le=1, description="the part of the run after which delta is 0"
    )
    ssp_fragments: OfSsp[Fragments] = Field(default="blocks", description="what SSP draws: residual blocks, or layers")
    ssp_draws: OfSsp[Draws] = Field(
        default="apart", description="SSP: draws for weights and activations apart, or one for both"
    )
    fade: OfRecipe[float] = Field(
        default=0.0,
        ge=0,
        le=1,
        description="the part of the run over which skips that were cut fade away, with plain; 0: they are gone at "
        "once",
    )
    additional_losses: OfRecipe[float] = Field(
        default=0.0,
        ge=0,
        description="alpha: the weight of losses at the end of each downsampling block, the paper's is 0.01; 0: none",
    )
    joint_distillation: OfRecipe[float] = Field(
        default=0.0,
        ge=0,
        description="beta: how much a full-precision copy that trains along guides, 0.1 is a start; 0: no copy",
    )
    activation_gradient: OfRecipe[ActivationGradient] = Field(
        default="codes",
        description="where an activation's gradient ends: at the largest code, or one step beyond, at ymax",
    )
    train_scales: OfRecipe[float] = Field(
        default=0.0,
        ge=0,
        description="rate at which activations' scales learn, as a part of lr: 1 is that of LSQ; 0: they stay",
    )
    freeze_scales: OfScales[Exact] = Field(
        default=Fraction(1, 2), gt=0, lt=1, description="the part of the run after which scales that train stay"
    )
    dampen_oscillations: OfRecipe[float] = Field(
        default=0.0,
        ge=0,
        description="lambda: at the end, the weight of a loss that draws weights to the middle of their bins, 0.1 is "
        "a start; 0: none",
    )
    freeze_oscillations: OfRecipe[float] = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="the frequency of oscillations above which, at the end, a weight is frozen, 0.01 is a start; 0: "
        "none is",
    )
    estimate_statistics: OfRecipe[bool] = Field(
        default=False, description="estimate the statistics of BatchNormalizations anew when training is over"
    )
    batch_norm: BatchNormMode = Field(default="batch", description="the statistics that training normalizes by")
    precision: Precision = Field(
        default="fp32", description="of training's float tensors; evaluation and export are exact in both"
    )
    crop_padding: int | None = Field(
        default=None,
        ge=0,
        le=512,
        description="black pixels around an image before the random crop; by default an eighth of the side, where data "
        "are images",
    )
    flip: bool | None = Field(default=None, description="random horizontal flip; by default where data are images")
    evaluate: bool = Field(default=True, description="count the accuracy before and after")
    evaluate_every: int | None = Field(default=None, ge=1, description="count the accuracy after every so many epochs")
    diagnose: bool = Field(default=False, description="measure the noise of quantization, for `qpipe report`")
    checkpoint_every: int | None = Field(
        default=None, ge=1, description="updates between checkpoints; there is one after every epoch anyway"
    )

    @model_validator(mode="before")
    @classmethod
    def _none_is_the_recipes(cls, values: Any) -> Any:
        """What a recipe says may also be given as None, which gives nothing."""
        if not isinstance(values, Mapping):
            return values
        said = cls.said_by_recipes()
        return {name: value for name, value in values.items() if value is not None or name not in said}

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.method == "ag" and self.batch_norm != "batch":
            raise ValueError(f"batch_norm: '{self.batch_norm}', expected 'batch' with the method 'ag'")
        if self.estimate_statistics and self.batch_norm != "batch":
            raise ValueError(f"batch_norm: '{self.batch_norm}', expected 'batch' with estimate_statistics")
        return self

    @property
    def stripping(self) -> Stripping:
        """How plain takes skips out: what fades comes back at first, to blocks that were left as they are."""
        return self.strip or ("cut" if self.fade else "refit")

    @classmethod
    def said_by_recipes(cls) -> dict[str, SaidByRecipe]:
        """The names of what a recipe says where nothing is given."""
        notes = ((name, note) for name, field in cls.model_fields.items() for note in field.metadata)
        return {name: note for name, note in notes if isinstance(note, SaidByRecipe)}

    def arguments(self) -> dict[str, Any]:
        """The fields by name; of those that a recipe says only what was given."""
        unsaid = self.said_by_recipes().keys() - self.model_fields_set
        return {name: value for name, value in super().arguments().items() if name not in unsaid}

    def of_training(self) -> dict[str, Any]:
        """The fields by name that trained weights depend on, besides the network."""
        return {name: value for name, value in super().arguments().items() if name not in _BESIDE_THE_TRAINING}
