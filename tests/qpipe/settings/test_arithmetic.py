"""The options of training's arithmetic: formats, what goes together, and what has no effect."""

from typing import Any

import pytest

from qpipe.arith.mls.formats import ElementFormat, GroupFormat, MlsFormat
from qpipe.errors import RecipeError
from qpipe.settings import FinetuneSettings, validated
from qpipe.settings.recipes import resolve


def mls(**values: Any) -> FinetuneSettings:
    return FinetuneSettings(arithmetic="mls", **values)


def test_by_default_all_operands_have_one_format() -> None:
    run = resolve(mls(), is_float=True)
    expected = MlsFormat(ElementFormat(2, 4), "nc", GroupFormat(8, 1), "carry", power_of_two=False)
    assert [run.format_of(role) for role in ("weight", "activation", "error")] == [expected] * 3
    assert (run.rounding, run.low_bit_ends) == ("stochastic", False)


def test_operands_may_differ() -> None:
    run = resolve(
        mls(
            element=(2, 1), element_weight=(0, 4), group="n", group_error="none", group_format=(4, 0), overflow="clip",
            tensor_scale="power-of-two",
        )
    )  # fmt: skip
    rest: dict[str, Any] = {"group": GroupFormat(4, 0), "overflow": "clip", "power_of_two": True}
    assert run.format_of("weight") == MlsFormat(ElementFormat(0, 4), "n", **rest)
    assert run.format_of("activation") == MlsFormat(ElementFormat(2, 1), "n", **rest)
    assert run.format_of("error") == MlsFormat(ElementFormat(2, 1), "none", **rest)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"element": (6, 1)}, "element: ⟨6, 1⟩, expected 0 to 5 bits of exponent and 0 to 8 of mantissa"),
        ({"element_error": (0, 0)}, "element_error: ⟨0, 0⟩, expected at least one bit beside the sign"),
        ({"element": (2,)}, "element: '2', expected bits of exponent and mantissa, as in 2,1"),
        ({"element": (2, 1.0)}, "element: '2,1.0', expected bits of exponent and mantissa, as in 2,1"),
        ({"element": "2,1"}, "element: '2,1', expected bits of exponent and mantissa, as in 2,1"),
        ({"group_format": (8, 2)}, "group_format: ⟨8, 2⟩, expected a mantissa of 0 or 1 bits"),
        ({"group": "cn"}, "group: 'cn', expected 'none', 'n', 'c' or 'nc'"),
        ({"arithmetic": "int"}, "arithmetic: 'int', expected 'float' or 'mls'"),
        ({"arithmetic": "mls", "precision": "bf16"}, "precision: 'bf16', expected 'fp32' with the arithmetic 'mls'"),
    ],
)
def test_a_wrong_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        validated(FinetuneSettings, values, lambda location: str(location[0]))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"element": (2, 1)}, "element: (2, 1), but without effect, expected it together with the arithmetic 'mls'"),
        ({"arithmetic": "float", "group": "n"}, "group: n, but without effect, expected it together with the arithm"),
        ({"low_bit_ends": True}, "low_bit_ends: True, but without effect"),
        (
            {"arithmetic": "mls", "group": "none", "group_format": (8, 0)},
            "group_format: 8,0, but without effect, expected it together with groups",
        ),
        (
            {"arithmetic": "mls", "element": (0, 4), "overflow": "clip"},
            "overflow: 'clip', but without effect, expected it together with an element that has an exponent",
        ),
    ],
)
def test_a_value_that_nothing_would_read(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        resolve(FinetuneSettings(**values))
    assert str(raised.value).startswith(message)


def test_one_operand_with_groups_reads_their_format() -> None:
    resolve(mls(group="none", group_error="n", group_format=(8, 0)))
    resolve(mls(element=(0, 4), element_error=(1, 4), overflow="clip"))


def test_the_papers_recipes() -> None:
    cifar = resolve(FinetuneSettings(arithmetic="float"), is_float=True)
    assert (cifar.recipe, cifar.epochs, cifar.milestones, cifar.lr) == ("mls-cifar", 160, (80, 120), 0.1)
    assert (cifar.optimizer, cifar.momentum, cifar.weight_decay, cifar.schedule) == ("sgd", 0.9, 5e-4, "step")
    imagenet = resolve(mls(recipe="mls-imagenet"), is_float=True)
    assert (imagenet.epochs, imagenet.milestones, imagenet.lr, imagenet.momentum) == (90, (30, 60), 0.1, 0.9)
    assert imagenet.weight_decay == 5e-4
    assert resolve(mls()).recipe == "faq-8bit"  # under FAQ


def test_what_other_arithmetics_do_not_read_is_no_part_of_their_run() -> None:
    assert FinetuneSettings().of_training()["arithmetic"] is None
    assert "element" not in FinetuneSettings(arithmetic="float").of_training()
    assert mls(element=(2, 1)).of_training()["element"] == (2, 1)
