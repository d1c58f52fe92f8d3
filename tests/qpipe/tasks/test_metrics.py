"""Metrics over uneven batches are their definitions over all images at once."""

from typing import Any

import numpy as np
import pytest

from qpipe.errors import DataError, ModelError, QpipeError, RecipeError
from qpipe.tasks.metrics import check_metric, metric_of
from qpipe.tasks.task import Task

RNG = np.random.default_rng(0)
SUMMED_OTHERWISE = 1e-12
"""Of float64 sums in another order."""


def judged(task: Task, outputs: Any, labels: Any, size: int = 3) -> float:
    metric = metric_of(task, "net.onnx")
    outputs, labels = np.asarray(outputs), np.asarray(labels)
    for start in range(0, len(outputs), size):
        metric.add(outputs[start : start + size], labels[start : start + size])
    return metric.value()


def of(loss: str, metric: Any, **values: Any) -> Task:
    return Task(loss=loss, metric=metric, **values)


def test_top_1_and_top_5() -> None:
    scores = RNG.integers(0, 4, (10, 8))
    labels = RNG.integers(0, 8, 10)
    order = np.argsort(-scores, axis=1, kind="stable")
    assert judged(of("cross-entropy", "top-1"), scores, labels) == (order[:, 0] == labels).mean()
    assert judged(of("cross-entropy", "top-5"), scores, labels) == (order[:, :5] == labels[:, None]).any(1).mean()
    # What TopK gives is in order already.
    ranked = of("cross-entropy", "top-5", is_choice=True)
    assert judged(ranked, order[:, :5], labels) == (order[:, :5] == labels[:, None]).any(1).mean()


def test_accuracy() -> None:
    logits, labels = RNG.standard_normal((7, 3)), RNG.integers(0, 2, (7, 3))
    assert judged(of("multi-label", "accuracy", columns=3), logits, labels) == ((logits > 0) == labels).mean()
    one, yes = logits[:, :1], labels[:, 0]
    assert judged(of("binary", "accuracy"), one, yes) == ((one[:, 0] > 0) == yes).mean()
    chance = 1 / (1 + np.exp(-one))
    assert judged(of("binary", "accuracy", threshold=0.5), chance, yes) == ((one[:, 0] > 0) == yes).mean()
    assert judged(of("cross-entropy", "accuracy", columns=3), logits, yes) == (logits.argmax(1) == yes).mean()


def f1_of(said: np.ndarray, there: np.ndarray) -> float:
    precision, recall = (said & there).sum() / said.sum(), (said & there).sum() / there.sum()
    return 2 * precision * recall / (precision + recall)


def test_f1() -> None:
    logits, labels = RNG.standard_normal((9, 4)), RNG.integers(0, 2, (9, 4))
    micro = f1_of(logits > 0, labels > 0)
    assert judged(of("multi-label", "f1", columns=4), logits, labels) == pytest.approx(micro, rel=SUMMED_OTHERWISE)
    binary = f1_of(logits[:, 0] > 0, labels[:, 0] > 0)
    assert judged(of("binary", "f1", columns=1), logits[:, :1], labels[:, 0]) == pytest.approx(binary, rel=1e-12)
    classes = np.arange(9) % 3
    chosen = np.array([0, 1, 2, 0, 1, 1, 0, 2, 2])
    macro = np.mean([f1_of(chosen == c, classes == c) for c in range(3)])
    found = judged(of("cross-entropy", "f1", columns=4), np.eye(4)[chosen], classes)
    assert found == pytest.approx(macro, rel=SUMMED_OTHERWISE), "a class that does not occur counts nothing"


def test_mean_iou_leaves_the_ignored_label_out() -> None:
    scores, labels = RNG.standard_normal((5, 3, 4, 6)), RNG.integers(0, 3, (5, 4, 6))
    labels[0, 0] = 255
    chosen, counted = scores.argmax(1), labels != 255
    shares = []
    for c in range(3):
        said, there = (chosen == c) & counted, labels == c
        shares.append((said & there).sum() / (said | there).sum())
    dense = of("cross-entropy", "miou", columns=3, is_dense=True, ignore_label=255)
    assert judged(dense, scores, labels, 2) == pytest.approx(np.mean(shares), rel=SUMMED_OTHERWISE)
    last = of("cross-entropy", "miou", columns=3, is_dense=True, ignore_label=255, class_axis=3)
    assert judged(last, scores.transpose(0, 2, 3, 1), labels) == judged(dense, scores, labels)
    choice = of("cross-entropy", "miou", columns=3, is_dense=True, ignore_label=255, is_choice=True)
    assert judged(choice, chosen, labels) == judged(dense, scores, labels)


def test_errors_and_their_ratio() -> None:
    outputs, labels = RNG.random((7, 1)), RNG.random(7)
    error = ((outputs[:, 0] - labels) ** 2).mean()
    assert judged(of("mse", "mse"), outputs, labels) == pytest.approx(error, rel=SUMMED_OTHERWISE)
    assert judged(of("mse", "psnr"), outputs, labels) == pytest.approx(-10 * np.log10(error), rel=SUMMED_OTHERWISE)
    pixels = of("mse", "psnr", is_dense=True)
    assert judged(pixels, outputs * 255, labels * 255) == pytest.approx(-10 * np.log10(error), rel=1e-9)


def test_one_of_ones_own_sees_all_images_at_once() -> None:
    seen = []

    def spread(outputs: np.ndarray, labels: np.ndarray) -> float:
        seen.append((outputs.shape, labels.shape))
        return outputs.max() - labels.min()

    assert judged(of("mse", spread), np.arange(7.0)[:, None], np.arange(7)) == 6
    assert seen == [((7, 1), (7,))]
    for wrong, told in (
        (lambda outputs, labels: outputs[99], "raised IndexError"),
        (lambda outputs, labels: float("nan"), "gave nan, expected a finite number"),
    ):
        with pytest.raises(QpipeError, match=f"^metric '<lambda>': {told}"):
            judged(of("mse", wrong), np.zeros((2, 1)), np.zeros(2))


def test_labels_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"labels have shape \[2, 5\], but net.onnx gives \[2, 3\]"):
        judged(of("multi-label", "f1", columns=3), np.zeros((2, 3)), np.zeros((2, 5)))
    with pytest.raises(ModelError, match=r"net.onnx: output has shape \[2, 3, 4\], expected \[N, classes\]"):
        judged(of("cross-entropy", "top-1"), np.zeros((2, 3, 4)), np.zeros(2, int))
    with pytest.raises(RecipeError, match="metric: mse, but it can't judge the loss cross-entropy; expected top-1"):
        check_metric("mse", "cross-entropy", is_dense=False)
