from fractions import Fraction
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.errors import RecipeError
from qpipe.settings import FinetuneSettings
from qpipe.settings.recipes import DEFAULT_RECIPE, RECIPES, resolve
from qpipe.settings.training import RecipeName

NAMES = st.sampled_from(get_args(RecipeName))


def run_of(name: RecipeName, **given_values: Any) -> FinetuneSettings:
    return resolve(FinetuneSettings(recipe=name, **given_values))


def test_every_name_has_a_recipe() -> None:
    assert set(RECIPES) == set(get_args(RecipeName))
    assert DEFAULT_RECIPE in RECIPES


def test_the_papers_values() -> None:
    eight = run_of("faq-8bit")
    assert (eight.epochs, eight.schedule, eight.lr, eight.weight_decay) == (1, "constant", 1e-4, 1e-4)
    four = run_of("faq-4bit")
    assert (four.epochs, four.schedule, four.batch_size) == (110, "exponential", 256)
    assert (four.lr, four.lr_end) == (0.0015, 1e-6)
    cifar = run_of("faq-cifar-4bit")
    assert (cifar.epochs, cifar.lr, cifar.milestones, cifar.weight_decay) == (110, 0.02, (30, 60, 90), 5e-4)
    growing = run_of("faq-4bit-growing")
    assert (growing.epochs, growing.grow_at, growing.batch_size) == (165, (55, 150, 160), 256)
    scratch = run_of("faq-scratch-step")
    assert (scratch.lr, scratch.milestones, scratch.lr_end) == (0.1, (30, 60, 85, 95), 1e-6)


@given(name=NAMES, epochs=st.integers(1, 400))
def test_another_length_keeps_the_proportions(name: RecipeName, epochs: int) -> None:
    own, run = RECIPES[name], run_of(name, epochs=epochs)
    assert run.epochs == epochs
    for before, after in ((own.milestones, run.milestones), (own.grow_at, run.grow_at)):
        assert [each / own.epochs for each in before] == [each / epochs for each in after]
    assert (run.lr, run.lr_end, run.weight_decay, run.batch_size) == (
        own.lr, own.lr_end, own.weight_decay, own.batch_size,
    )  # fmt: skip


def test_what_is_given_counts_and_is_in_epochs_of_the_run() -> None:
    run = run_of("faq-cifar-4bit", epochs=11, milestones=(2, 4.5), lr=0.1, momentum=None)
    assert run.milestones == (2, Fraction(9, 2))
    assert (run.lr, run.momentum, run.weight_decay) == (0.1, 0.9, 5e-4)


def test_another_schedule_starts_anew() -> None:
    assert run_of("faq-4bit", schedule="constant").lr_end is None
    run = run_of("faq-cifar-4bit", schedule="exponential", lr_end=1e-5)
    assert (run.milestones, run.lr_end) == ((), 1e-5)


@pytest.mark.parametrize(
    ("name", "given_values", "message"),
    [
        ("faq-4bit", {"schedule": "step"}, "milestones: missing, but a step schedule needs the epochs"),
        ("faq-8bit", {"schedule": "exponential"}, "lr_end: missing, but an exponential schedule needs the rate that"),
        ("faq-8bit", {"lr_end": 1e-6}, "lr_end: 1e-06, expected none in a constant schedule"),
        ("faq-4bit", {"milestones": (3,)}, "milestones: given, expected none in a schedule that is exponential"),
        ("faq-4bit", {"lr": 1e-7}, "lr_end: 1e-06, expected at most lr, which is 1e-07"),
        ("faq-cifar-4bit", {"epochs": 10, "milestones": (5, 30)}, "milestones: 30, expected epochs before the run's"),
        ("faq-4bit", {"grow_at": (110,)}, "grow_at: 110, expected epochs before the run's end at 110"),
        ("faq-8bit", {"hold_out": 0.1, "ema": 0.9}, "hold_out: 0.1, expected 0 with ema, of which no epoch is"),
        (
            "faq-8bit",
            {"hold_out": 0.1, "estimate_statistics": True},
            "hold_out: 0.1, expected 0 with estimate_statistics, of which no epoch is judged",
        ),
        ("faq-8bit", {"warmup": 1}, "warmup: 1, expected less than the run's epochs, 1"),
    ],
)
def test_values_that_do_not_go_together(name: RecipeName, given_values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        run_of(name, **given_values)
    assert str(raised.value).startswith(message)


def test_a_run_is_of_the_settings_that_were_asked_for() -> None:
    asked = FinetuneSettings(method="ag", evaluate=False, layerwise=True, lr=0.5)
    run = resolve(asked)
    assert (run.recipe, run.method, run.evaluate, run.layerwise, run.lr) == ("ag", "ag", False, True, 0.5)
    assert run.optimizer == "adam"
    assert resolve(asked, strips=True).recipe == "plain"
    assert asked.arguments().keys() & FinetuneSettings.said_by_recipes().keys() == {"layerwise", "lr"}


@pytest.mark.parametrize(
    ("given_values", "message"),
    [
        ({"ssp_ratio": 0.0}, "ssp_ratio: 0.0, but without effect, expected it together with ssp"),
        ({"layerwise": True}, "layerwise: True, but without effect, expected it together with method 'ag'"),
        ({"teacher": "none", "temperature": 2}, "temperature: 2.0, but without effect, expected it together with a"),
        ({"optimizer": "adam", "momentum": 0.5}, "momentum: 0.5, but without effect, expected it together with the op"),
    ],
)
def test_a_value_that_nothing_would_read(given_values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        run_of("distilled-4bit", **given_values)
    assert str(raised.value).startswith(message)


def test_what_says_no_needs_nothing() -> None:
    assert not run_of("faq-8bit", layerwise=False, ssp=False).layerwise
