"""An Einsum becomes a product; one that none says stays."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.rewrites.einsum_to_matmul import EinsumToMatMul
from support.networks import build, integers, ops
from support.rewriting import assert_same, assert_stays

SIZES = {"n": 3, "b": 2, "c": 4, "d": 5, "h": 2, "i": 3, "j": 4, "k": 6}


def of(equation: str, *, constant: bool = False, open_batch: bool = True) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """The network of one Einsum and what it is given; n is open, or fixed. constant: whether the second is weights."""
    terms = equation.partition("->")[0].split(",")
    arrays = [integers(*(SIZES[label] for label in term)) for term in terms]
    shapes = [",".join("N" if open_batch and label == "n" else str(SIZES[label]) for label in term) for term in terms]
    names = ["x", "w"][: len(terms)]
    given = names[:1] if constant else names
    inputs = ", ".join(f"float[{shape}] {name}" for name, shape in zip(given, shapes, strict=False))
    node = f'y = Einsum<equation="{equation}">({", ".join(names)})'
    model = build(f"({inputs}) => (float[] y) {{ {node} }}", **({"w": arrays[1]} if constant else {}))
    return model, dict(zip(given, arrays, strict=False))


@pytest.mark.parametrize(
    ("equation", "constant", "expected"),
    [
        # Attention, as it is written out.
        ("nihd,njhd->nhij", False, ["Transpose", "Transpose", "MatMul"]),
        ("nhij,njhd->nihd", False, ["Transpose", "MatMul", "Transpose"]),
        ("nij,njk->nik", False, ["MatMul"]),
        # Prototypes of masks, and their coefficients.
        ("nchj,nck->nkhj", False, ["Transpose", "Reshape", "MatMul", "Reshape", "Transpose"]),
        ("nbd,dhk->nbhk", True, ["MatMul", "Reshape"]),
        ("nbhk,dhk->nbd", True, ["Reshape", "MatMul"]),
        ("nchi,nc->nchi", False, ["Reshape", "Mul"]),
        ("ni,nj->nij", False, ["Reshape", "Reshape", "Mul"]),
        ("nc,nc->n", False, ["Reshape", "Reshape", "MatMul", "Reshape"]),
        ("nci->nic", False, ["Transpose"]),
        ("ik,kj", False, ["MatMul"]),
    ],
)
@pytest.mark.parametrize("open_batch", [True, False])
def test_it_is_a_product(equation: str, constant: bool, expected: list[str], open_batch: bool) -> None:
    model, arrays = of(equation, constant=constant, open_batch=open_batch)
    assert_same(EinsumToMatMul(), model, expected, **arrays)


@settings(max_examples=60)
@given(st.data())
def test_every_product_of_two(data: st.DataObject) -> None:
    """Labels of both, of one and of none, in any order; whole numbers, whose sums are exact."""
    labels = list("nbcdhijk")
    places = {label: data.draw(st.sampled_from(["batch", "summed", "left", "right", ""])) for label in labels}
    shuffled = {
        side: "".join(label for label in data.draw(st.permutations(labels)) if places[label] in kept)
        for side, kept in (
            ("a", ("batch", "summed", "left")), ("b", ("batch", "summed", "right")), ("y", ("batch", "left", "right")),
        )
    }  # fmt: skip
    if not shuffled["a"] or not shuffled["b"]:
        return
    model, arrays = of(f"{shuffled['a']},{shuffled['b']}->{shuffled['y']}", open_batch=places["n"] == "batch")
    if "Einsum" in ops(model) and EinsumToMatMul()(model.clone()).modified:
        assert_same(EinsumToMatMul(), model, **arrays)
    else:
        # A batch that does not lead can't be counted beside another open axis.
        assert places["n"] == "batch"


@pytest.mark.parametrize("equation", ["nii->ni", "nij,nj->n", "nij,k->ni", "n...i,n...j->n...ij", "nij->ni"])
def test_what_stays(equation: str) -> None:
    terms = [term.replace("...", "b") for term in equation.partition("->")[0].split(",")]
    if equation == "nij,nj->n":
        equation = "nij,nj,nk->n"
        terms = ["nij", "nj", "nk"]
    inputs = ", ".join(
        f"float[{','.join('N' if label == 'n' else '3' for label in term)}] {name}"
        for name, term in zip("xwz", terms, strict=False)
    )
    names = ", ".join("xwz"[: len(terms)])
    model = build(f'({inputs}) => (float[] y) {{ y = Einsum<equation="{equation}">({names}) }}')
    assert_stays(EinsumToMatMul(), model)
