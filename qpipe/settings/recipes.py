"""The named recipes of `qpipe finetune`: every value of a training run, from the FAQ, AG and MLS papers.

A recipe's epochs, and those at which its rate falls or its batches grow, belong together: a run of another length keeps
their proportions. Where the paper's sentence is about ImageNet, it is quoted as it is; weight decay is always that of
the float training (the paper's smallest 4-bit network, ResNet-18, had half of it: `weight_decay = 5e-5`).

Source: FAQ, sections 3.3, 4.3, 4.4, 4.5 and 4.9, and Table 2; AG, section 4.1; MLS, appendix B.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final, get_args

from qpipe.arith.mls.generators import Role
from qpipe.errors import RecipeError
from qpipe.settings.finetune import FinetuneSettings
from qpipe.settings.training import FLOAT_TEACHER, NO_TEACHER, RecipeName

_FAQ_4BIT: Final[Mapping[str, Any]] = {"epochs": 110, "schedule": "exponential", "lr": 0.0015, "lr_end": 1e-6}
_STEP: Final[Mapping[str, Any]] = {"epochs": 110, "schedule": "step", "milestones": (30, 60, 90)}
# AG's, section 4.1: what the paper trains every network with on ImageNet. It says of no weight decay.
_AG: Final[Mapping[str, Any]] = {
    "epochs": 35,
    "schedule": "step",
    "lr": 1e-3,
    "milestones": (25, 30),
    "optimizer": "adam",
    "weight_decay": 0.0,
}
# Not the paper's: what `tools/faq_rows.py` found best for 4 bits. The rate is that of training from scratch; unless
# gradients are clipped it tears some pretrained networks apart.
_DISTILLED: Final[Mapping[str, Any]] = {
    "epochs": 30,
    "schedule": "linear",
    "lr": 0.1,
    "weight_decay": 5e-4,
    "gradient_clip": 0.05,
    "teacher": FLOAT_TEACHER,
}
# MLS's, appendix B, from pretrained weights or from scratch; of the batches' size it says nothing.
_MLS: Final[Mapping[str, Any]] = {"schedule": "step", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def _recipe(values: Mapping[str, Any] | None = None, **more: Any) -> FinetuneSettings:
    return FinetuneSettings(**{**(values or {}), **more})


RECIPES: Final[Mapping[RecipeName, FinetuneSettings]] = {
    "faq-8bit": _recipe(),
    "faq-4bit": _recipe(_FAQ_4BIT),
    "faq-4bit-step": _recipe(_STEP, lr=1e-3),
    "faq-4bit-growing": _recipe(_FAQ_4BIT, epochs=165, grow_at=(55, 150, 160)),
    "faq-cifar-8bit": _recipe(epochs=10, weight_decay=5e-4, batch_size=128),
    "faq-cifar-4bit": _recipe(_STEP, lr=0.02, weight_decay=5e-4),
    "faq-scratch-exp": _recipe(_FAQ_4BIT, lr=0.1),
    "faq-scratch-step": _recipe(_STEP, lr=0.1, lr_end=1e-6, milestones=(30, 60, 85, 95)),
    "distilled-4bit": _recipe(_DISTILLED),
    "ag": _recipe(_AG),
    "ag-binary": _recipe(_AG, lr=5e-4),
    # Ours: a network whose blocks were refitted knows most of it, which the rate of training from scratch destroys.
    "plain": _recipe({**_DISTILLED, "lr": 0.02, "batch_size": 128}),
    "mls-cifar": _recipe(_MLS, epochs=160, milestones=(80, 120), batch_size=128),
    "mls-imagenet": _recipe(_MLS, epochs=90, milestones=(30, 60)),
}
DEFAULT_RECIPE: Final[RecipeName] = "faq-8bit"


def resolve(asked: FinetuneSettings, *, strips: bool = False, is_float: bool = False) -> FinetuneSettings:
    """A whole run: what was asked for, and the rest as its recipe says, which has a name then.

    The recipe's milestones are brought to the run's length; given ones are epochs of the run itself. Another schedule
    than the recipe's starts without the recipe's lr_end and milestones.

    Args:
        strips: whether this run takes skips away.
        is_float: whether it trains a float network.

    Raises:
        RecipeError: values don't go together, or one was given that nothing would read.
    """
    by_method: RecipeName = "mls-cifar" if is_float else "ag" if asked.method == "ag" else DEFAULT_RECIPE
    name = asked.recipe or ("plain" if strips else by_method)
    said = FinetuneSettings.said_by_recipes()
    given = {key: getattr(asked, key) for key in said if key in asked.model_fields_set}
    if given.get("teacher") == NO_TEACHER:
        given["teacher"] = None
    own = {key: getattr(RECIPES[name], key) for key in said}
    if given.get("schedule", own["schedule"]) != own["schedule"]:
        own |= {"lr_end": None, "milestones": ()}
    stretch = Fraction(given.get("epochs", own["epochs"]), own["epochs"])
    for key in ("milestones", "grow_at"):
        own[key] = tuple(epoch * stretch for epoch in own[key])
    own["warmup"] *= stretch
    run = asked.model_copy(update={**own, **given, "recipe": name})
    _check_schedule(run)
    _check_used(run, given)
    if run.fade and run.stripping != "cut":
        raise RecipeError(
            f"fade: {run.fade:g}, expected 0 with strip '{run.stripping}', after which no skip is missing, or 'cut'"
        )
    return run


def _check_used(run: FinetuneSettings, given: Mapping[str, Any]) -> None:
    """Raise RecipeError for a value that nothing would read."""
    is_there = {
        "method 'ag'": run.method == "ag",
        "ssp": run.ssp,
        "train_scales": run.train_scales > 0,
        "a teacher": run.teacher is not None,
        "the optimizer 'sgd'": run.optimizer == "sgd",
        "the arithmetic 'mls'": run.arithmetic == "mls",
    }
    for name, note in FinetuneSettings.said_by_recipes().items():
        value = given.get(name)
        # An argument that says no needs nothing.
        if note.needs is not None and not is_there[note.needs] and value is not None and value is not False:
            shown = float(value) if isinstance(value, Fraction) else value
            raise RecipeError(f"{name}: {shown}, but without effect, expected it together with {note.needs}")
    for name in ("ema", "estimate_statistics"):
        if getattr(run, name) and run.hold_out:
            raise RecipeError(f"hold_out: {run.hold_out:g}, expected 0 with {name}, of which no epoch is judged")
    if run.arithmetic == "mls":
        _check_formats(run, given)


def _check_formats(run: FinetuneSettings, given: Mapping[str, Any]) -> None:
    """Raise RecipeError for a part of the low-bit format that no operand has."""
    formats = [run.format_of(role) for role in get_args(Role)]
    if "group_format" in given and not any(form.axes for form in formats):
        shown = ",".join(map(str, run.group_format))
        raise RecipeError(f"group_format: {shown}, but without effect, expected it together with groups")
    if "overflow" in given and not any(form.element.exponent for form in formats):
        raise RecipeError(
            f"overflow: '{run.overflow}', but without effect, expected it together with an element that has an exponent"
        )


def _check_schedule(run: FinetuneSettings) -> None:
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
    if run.warmup >= run.epochs:
        raise RecipeError(f"warmup: {float(run.warmup):g}, expected less than the run's epochs, {run.epochs}")
    for key, epochs in (("milestones", run.milestones), ("grow_at", run.grow_at)):
        late = [float(epoch) for epoch in epochs if epoch >= run.epochs]
        if late:
            raise RecipeError(f"{key}: {late[0]:g}, expected epochs before the run's end at {run.epochs}")
