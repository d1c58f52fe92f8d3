from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qpipe.errors import RecipeError
from qpipe.settings import FinetuneSettings
from qpipe.settings.recipes import resolve
from qpipe.train.schedule import batches_per_update, check_stream, learning_rate, moment

LAST_DIGIT = 1e-12  # relative: a power with a fractional exponent, against a product of factors


def settings(name: Any, **given_values: Any) -> FinetuneSettings:
    return resolve(FinetuneSettings(recipe=name, **given_values))


def rates(run: FinetuneSettings) -> list[float]:
    return [learning_rate(run, Fraction(epoch)) for epoch in range(run.epochs)]


def test_constant() -> None:
    assert rates(settings("faq-cifar-8bit")) == [1e-4] * 10


@given(epochs=st.integers(1, 200))
def test_exponential_falls_by_one_factor_between_the_same_ends(epochs: int) -> None:
    run = settings("faq-4bit", epochs=epochs)
    found = rates(run)
    factor = (1e-6 / 0.0015) ** (1 / epochs)
    assert found[0] == 0.0015
    assert found == pytest.approx([0.0015 * factor**epoch for epoch in range(epochs)], rel=LAST_DIGIT)
    assert found[-1] * factor == pytest.approx(1e-6, rel=LAST_DIGIT)


def test_the_papers_factors() -> None:
    assert rates(settings("faq-4bit"))[1] / 0.0015 == pytest.approx(0.936, abs=5e-4)
    assert rates(settings("faq-scratch-exp"))[1] / 0.1 == pytest.approx(0.901, abs=5e-4)


def test_step_falls_at_its_milestones() -> None:
    found = rates(settings("faq-cifar-4bit"))
    assert found == pytest.approx([0.02] * 30 + [0.002] * 30 + [2e-4] * 30 + [2e-5] * 20, rel=LAST_DIGIT)
    found = rates(settings("faq-scratch-step"))
    expected = [0.1] * 30 + [0.01] * 30 + [1e-3] * 25 + [1e-4] * 10 + [1e-6] * 15
    assert found == pytest.approx(expected, rel=LAST_DIGIT)


def test_linear_falls_at_every_update() -> None:
    run = settings("faq-8bit", schedule="linear", lr=1.0, epochs=4)
    assert [learning_rate(run, Fraction(n, 2)) for n in range(9)] == [1 - n / 8 for n in range(9)]
    run = settings("faq-8bit", schedule="linear", lr=1.0, lr_end=0.5, epochs=2)
    assert learning_rate(run, Fraction(1)) == 0.75


@given(epochs=st.integers(1, 120), batches=st.integers(1, 200))
def test_a_milestone_takes_effect_at_the_first_update_that_begins_behind_it(epochs: int, batches: int) -> None:
    run = settings("faq-cifar-4bit", epochs=epochs)
    found = [
        round(0.02 / learning_rate(run, moment(epoch, batch, batches)))
        for epoch in range(epochs)
        for batch in range(batches)
    ]
    # Counted in whole numbers: batch b of all is behind milestone m of 110 epochs where 110 b >= m epochs batches.
    expected = [
        10 ** sum(110 * position >= milestone * epochs * batches for milestone in (30, 60, 90))
        for position in range(epochs * batches)
    ]
    assert found == expected


def test_batches_grow() -> None:
    run = settings("faq-4bit-growing")
    found = [256 * batches_per_update(run, Fraction(epoch)) for epoch in range(165)]
    assert found == [256] * 55 + [512] * 95 + [1024] * 10 + [2048] * 5
    short = settings("faq-4bit-growing", epochs=1)
    assert batches_per_update(short, Fraction(1, 3) - Fraction(1, 1000)) == 1
    assert batches_per_update(short, Fraction(1, 3)) == 2
    assert batches_per_update(short, Fraction(160, 165)) == 8


def test_a_stream_changes_at_the_start_of_an_epoch() -> None:
    assert moment(3, 7, None) == 3
    assert moment(3, 7, 14) == Fraction(7, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"fade": 0.6, "epochs": 2},
            r"^fade: 0\.6 of 2 epochs of a stream, which .*, expected .*, or at least 3 epochs$",
        ),
        ({"fade": 1.0, "epochs": 30}, r"^fade: 1 of 30 epochs of a stream, which moves .*, expected a smaller part$"),
        ({"ssp": True, "epochs": 2}, r"^ssp_end: 0\.571429 of 2 epochs of a stream, .*, or at least 3 epochs$"),
    ],
)
def test_what_would_not_have_fallen_at_the_end_of_a_stream(options: dict[str, Any], message: str) -> None:
    run = settings("ag", **options)
    with pytest.raises(RecipeError, match=message):
        check_stream(run, None)
    check_stream(run, 1000)


@given(epochs=st.integers(1, 60), fade=st.floats(0, 1))
def test_a_stream_has_enough_epochs_where_the_last_one_begins_behind_the_fade(epochs: int, fade: float) -> None:
    run = settings("ag", epochs=epochs, fade=fade)
    last = moment(epochs - 1, 0, None) / epochs
    try:
        check_stream(run, None)
    except RecipeError:
        assert last < Fraction(fade)
    else:
        assert last >= Fraction(fade)


def test_on_a_stream_scales_stay_for_an_epoch_at_least() -> None:
    with pytest.raises(RecipeError, match=r"^freeze_scales: 0\.5 of 1 epochs of a stream, .*, or at least 2 epochs$"):
        check_stream(settings("faq-8bit", train_scales=1.0), None)
    check_stream(settings("faq-8bit", train_scales=1.0, epochs=2), None)
    check_stream(settings("faq-8bit"), None)


def test_an_exponential_rate_stays_within_an_epoch() -> None:
    """FAQ, section 3.3: "we multiply the learning rate by 0.936 after each epoch"."""
    run = settings("faq-4bit")
    for epoch in (0, 1, 109):
        within = {learning_rate(run, moment(epoch, batch, 7)) for batch in range(7)}
        assert within == {learning_rate(run, Fraction(epoch))}


def test_cosine_falls_along_half_a_wave() -> None:
    run = settings("faq-8bit", schedule="cosine", lr=1.0, lr_end=0.5, epochs=3)
    expected = [1.0, 0.5 + 0.5 * 0.75, 0.5 + 0.5 * 0.25]  # cos 60° and 120° are a half and minus a half
    assert rates(run) == pytest.approx(expected, rel=LAST_DIGIT)
    assert learning_rate(run, Fraction(3)) == pytest.approx(0.5, rel=LAST_DIGIT)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_what_falls_at_every_update_begins_behind_the_warm_up(schedule: str) -> None:
    run = settings("faq-8bit", schedule=schedule, lr=1.0, epochs=5, warmup=2)
    later = settings("faq-8bit", schedule=schedule, lr=1.0, epochs=3)
    assert rates(run)[:2] == [0.0, 0.5]
    assert rates(run)[2:] == rates(later)
    assert learning_rate(run, Fraction(7, 4)) == 0.875


@given(epochs=st.integers(2, 200), sixtyfourths=st.integers(0, 64), part=st.fractions(0, 1))
def test_a_warm_up_rises_evenly_below_the_schedule(epochs: int, sixtyfourths: int, part: Fraction) -> None:
    warmup = Fraction(sixtyfourths, 64)
    run = settings("faq-4bit", epochs=epochs, warmup=float(warmup))
    plain = settings("faq-4bit", epochs=epochs)
    at = part * epochs
    rise = 1.0 if at >= warmup else float(at / warmup)
    assert learning_rate(run, at) == rise * learning_rate(plain, at)


def test_a_stream_can_not_warm_up() -> None:
    with pytest.raises(RecipeError, match=r"^warmup: 0\.5 epochs of a stream, which .* alone, expected 0$"):
        check_stream(settings("faq-8bit", epochs=2, warmup=0.5), None)
    check_stream(settings("faq-8bit", epochs=2, warmup=0.5), 100)
