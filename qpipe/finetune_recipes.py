"""The named recipes of `qpipe finetune`: every value of a training run, from the FAQ and AG papers.

A recipe's epochs, and those at which its rate falls or its batches grow, belong together: a run of another length keeps
their proportions. Where the paper's sentence is about ImageNet, it is quoted as it is; weight decay is always that of
the float training (the paper's smallest 4-bit network, ResNet-18, had half of it: `weight_decay = 5e-5`).

Source: FAQ, sections 3.3, 4.3, 4.4, 4.5 and 4.9, and Table 2; AG, section 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final, Literal

from qpipe.errors import RecipeError

Precision = Literal["fp32", "bf16"]
Method = Literal["faq", "ag"]
Optimizer = Literal["sgd", "adam"]
Fragments = Literal["blocks", "layers"]
Draws = Literal["apart", "together"]
ScheduleName = Literal["constant", "exponential", "step", "linear"]
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
]

FLOAT_TEACHER: Final = "float"
"""The teacher that the QDQ file itself still holds."""
NO_TEACHER: Final = "none"
"""What turns a recipe's teacher off."""


def _epochs(*numbers: int) -> tuple[Fraction, ...]:
    return tuple(map(Fraction, numbers))


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """One run of training.

    Args:
        epochs: passes over the training images.
        schedule: of the learning rate: constant; exponential, by one factor an epoch, from lr to lr_end; step, divided
            by 10 at each milestone; or linear (not the paper's), a little less at every update.
        lr, lr_end: the rate at first; where the exponential or linear one ends (0 if not given, when linear), or what a
            step schedule has after its last milestone.
        milestones: epochs after which a step schedule falls.
        grow_at: epochs after which the gradients of twice as many batches are averaged for one update.
        optimizer, momentum, weight_decay: Adam has no momentum of ours, but its own defaults.
        batch_size: images in a batch.
        gradient_clip: lambda, the longest gradient of a channel's weights in lengths of these weights; 0: any.
        teacher: what to distil from: "float", the network before it was quantized, or an .onnx file; None: nothing.
        teacher_weight, temperature: the teacher's part of the loss, and what both networks' logits are divided by.
        auxiliary_weight, layerwise: lambda, the loss of the auxiliary gradient module's network, and whether it has a
            branch at every convolution; with the method "ag" only.
        ssp: stochastic structured precision, with the ratio delta at first, the part of the run after which it is 0,
            and the policy.
        fade: the part of the run over which stripped skips fade away; 0: they are gone from the start.
        additional_losses: alpha, the weight of a classifier's loss at the end of each downsampling block; 0: none.
        joint_distillation: beta, the weight of the features' distances to those of a full-precision copy that trains
            along; 0: no such copy.
    """

    epochs: int
    lr: float
    weight_decay: float
    batch_size: int
    gradient_clip: float = 0.0
    schedule: ScheduleName = "constant"
    lr_end: float | None = None
    milestones: tuple[Fraction, ...] = ()
    grow_at: tuple[Fraction, ...] = ()
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    teacher: str | None = None
    teacher_weight: float = 0.7
    temperature: float = 4.0
    auxiliary_weight: float = 1.0
    layerwise: bool = False
    ssp: bool = False
    ssp_ratio: float = 0.5
    ssp_end: Fraction = Fraction(20, 35)
    ssp_fragments: Fragments = "blocks"
    ssp_draws: Draws = "apart"
    fade: float = 0.0
    additional_losses: float = 0.0
    joint_distillation: float = 0.0


_FAQ_4BIT = FinetuneRecipe(
    epochs=110, schedule="exponential", lr=0.0015, lr_end=1e-6, weight_decay=1e-4, batch_size=256
)
# AG's, section 4.1: what the paper trains every network with on ImageNet. It says of no weight decay.
_AG = FinetuneRecipe(
    epochs=35, schedule="step", lr=1e-3, milestones=_epochs(25, 30), optimizer="adam", weight_decay=0.0, batch_size=256
)
_STEP = replace(_FAQ_4BIT, schedule="step", lr_end=None, milestones=_epochs(30, 60, 90))
# Not the paper's: what `tools/faq_rows.py` found best for 4 bits. The rate is that of training from scratch; unless
# gradients are clipped it tears some pretrained networks apart.
_DISTILLED = FinetuneRecipe(
    epochs=30,
    schedule="linear",
    lr=0.1,
    weight_decay=5e-4,
    batch_size=256,
    gradient_clip=0.05,
    teacher=FLOAT_TEACHER,
)

RECIPES: Final[Mapping[RecipeName, FinetuneRecipe]] = {
    "faq-8bit": FinetuneRecipe(epochs=1, lr=1e-4, weight_decay=1e-4, batch_size=256),
    "faq-4bit": _FAQ_4BIT,
    "faq-4bit-step": replace(_STEP, lr=1e-3),
    "faq-4bit-growing": replace(_FAQ_4BIT, epochs=165, grow_at=_epochs(55, 150, 160)),
    "faq-cifar-8bit": FinetuneRecipe(epochs=10, lr=1e-4, weight_decay=5e-4, batch_size=128),
    "faq-cifar-4bit": replace(_STEP, lr=0.02, weight_decay=5e-4),
    "faq-scratch-exp": replace(_FAQ_4BIT, lr=0.1),
    "faq-scratch-step": replace(_STEP, lr=0.1, lr_end=1e-6, milestones=_epochs(30, 60, 85, 95)),
    "distilled-4bit": _DISTILLED,
    "ag": _AG,
    "ag-binary": replace(_AG, lr=5e-4),
    # Ours: what `tools/ag_rows.py` found best for a network without its skips, which learns most of it anew.
    "plain": replace(_DISTILLED, fade=0.6),
}
DEFAULT_RECIPE: Final[RecipeName] = "faq-8bit"


def default_recipe(method: Method, *, strips: bool) -> RecipeName:
    """The recipe of a run that names none; strips: whether it takes skips away."""
    if strips:
        return "plain"
    return DEFAULT_RECIPE if method == "faq" else "ag"


def resolve(name: RecipeName, given: Mapping[str, Any]) -> FinetuneRecipe:
    """The recipe with what is given (and not None) in the place of its own values.

    Its milestones are brought to the run's length; given ones are epochs of the run itself. Another schedule than the
    recipe's starts without the recipe's lr_end and milestones. Raises RecipeError where values don't go together.
    """
    if name not in RECIPES:
        raise RecipeError(f"recipe: {name!r}, expected one of {', '.join(RECIPES)}")
    values = {key: value for key, value in given.items() if value is not None}
    if "ssp_end" in values:
        values["ssp_end"] = Fraction(values["ssp_end"])
    for key in {"milestones", "grow_at"} & values.keys():
        values[key] = tuple(Fraction(epoch) for epoch in values[key])
    if values.get("teacher") == NO_TEACHER:
        values["teacher"] = None
    own = RECIPES[name]
    if values.get("schedule", own.schedule) != own.schedule:
        own = replace(own, lr_end=None, milestones=())
    stretch = Fraction(values.get("epochs", own.epochs), own.epochs)
    stretched = replace(
        own,
        milestones=tuple(epoch * stretch for epoch in own.milestones),
        grow_at=tuple(epoch * stretch for epoch in own.grow_at),
    )
    run = replace(stretched, **values)
    _check(run)
    return run


def check_used(run: FinetuneRecipe, given: Mapping[str, Any], *, method: Method, blocks: str | None) -> None:
    """Raise RecipeError for an argument that nothing would read; blocks: where no skips are stripped."""
    needs = {
        "method 'ag'": (method == "ag", ("auxiliary_weight", "layerwise")),
        "ssp": (run.ssp, ("ssp_ratio", "ssp_end", "ssp_fragments", "ssp_draws")),
        "a teacher": (run.teacher is not None, ("teacher_weight", "temperature")),
        "the optimizer 'sgd'": (run.optimizer == "sgd", ("momentum",)),
    }
    for what, (is_there, names) in needs.items():
        for name in names:
            # An argument that says no needs nothing.
            if not is_there and given[name] is not None and given[name] is not False:
                raise RecipeError(f"{name}: {given[name]}, but without effect, expected it together with {what}")
    if blocks not in {None, "*"}:
        raise RecipeError(f"blocks: '{blocks}', but without effect, expected it together with plain")


def _check(run: FinetuneRecipe) -> None:
    """Raise RecipeError where a schedule lacks what it needs, or has what it can't use."""
    if run.schedule == "exponential" and run.lr_end is None:
        raise RecipeError("lr_end: missing, but an exponential schedule needs the rate that it ends at")
    if run.schedule == "step" and not run.milestones:
        raise RecipeError("milestones: missing, but a step schedule needs the epochs at which it falls")
    if run.schedule == "constant" and run.lr_end is not None:
        raise RecipeError(f"lr_end: {run.lr_end:g}, expected none in a constant schedule")
    if run.schedule != "step" and run.milestones:
        raise RecipeError(f"milestones: given, expected none in a schedule that is {run.schedule}")
    if run.lr_end is not None and run.lr_end > run.lr:
        raise RecipeError(f"lr_end: {run.lr_end:g}, expected at most lr, which is {run.lr:g}")
    for key, epochs in (("milestones", run.milestones), ("grow_at", run.grow_at)):
        late = [float(epoch) for epoch in epochs if epoch >= run.epochs]
        if late:
            raise RecipeError(f"{key}: {late[0]:g}, expected epochs before the run's end at {run.epochs}")
