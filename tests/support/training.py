"""What the training loop needs in small: settings, images, single updates, and states to compare."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from qpipe.data import Preprocess, Source, open_data
from qpipe.settings import FinetuneSettings
from qpipe.tasks.task import CLASSES as OF_CLASSES
from qpipe.train.companion import Companion
from qpipe.train.executor import Executor
from qpipe.train.losses import label_loss
from qpipe.train.observer import Observer
from support.zoo.trainable import CLASSES, IMAGE_SHAPE

SETTINGS = FinetuneSettings(
    epochs=2, lr=0.02, momentum=0.9, weight_decay=1e-4, batch_size=16, crop_padding=1, flip=True
)


def replace(settings: FinetuneSettings, **values: Any) -> FinetuneSettings:
    """Settings with other values, together or not."""
    return settings.model_copy(update=values)


RUN = replace(SETTINGS, optimizer="adam", lr=1e-3, weight_decay=0.0, crop_padding=0, flip=False)
"""Two epochs of three updates of `images`."""
cross_entropy = label_loss(OF_CLASSES)
BATCHES = 4
"""Whole ones in an epoch of `bright_images`."""
SUMMED_OTHERWISE = 1e-4
"""Relative, of gradients: float32 sums of a few thousand products in another order."""


class InterruptedRunError(Exception):
    pass


class StopAfter(Observer):
    """Ends the process's work as a signal would: between two updates, unasked."""

    def __init__(self, step: int | None = None) -> None:
        self.step = step
        self.seen = torch.zeros(0, dtype=torch.int64)

    def before_update(self, executor: Executor, step: int) -> None:
        if step == self.step:
            raise InterruptedRunError

    def after_update(self, executor: Executor, step: int) -> None:
        self.seen = torch.cat([self.seen, torch.tensor([step])])

    def state(self) -> dict[str, torch.Tensor]:
        return {"seen": self.seen}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self.seen = state["seen"]


def bright_images(seed: int = 0) -> Source:
    """72 whose brightest channel is their class; the fourth has none."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 72)
    pixels = rng.integers(0, 120, (72, 8, 8, 3), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[:, :, label : label + 1] += 120
    return _source(pixels, labels)


def images() -> Source:
    """48 of noise, with labels from 0 to 4."""
    rng = np.random.default_rng(0)
    return _source(rng.integers(0, 256, (48, 8, 8, 3), dtype=np.uint8), np.arange(48) % CLASSES)


def _source(pixels: np.ndarray, labels: np.ndarray) -> Source:
    return open_data((pixels, labels), "train", Preprocess(mean=(0.5,), std=(0.5,)))


def batch(count: int = 12, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    noise = np.random.default_rng(seed).standard_normal((count, *IMAGE_SHAPE)).astype(np.float32)
    return torch.from_numpy(noise), torch.arange(count) % CLASSES


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, *IMAGE_SHAPE, generator=generator), torch.randint(10, (16,), generator=generator)


def train_steps(executor: Executor, inputs: np.ndarray, steps: int = 3, lr: float = 0.05) -> None:
    """A few steps of SGD towards class 0, 1, 2, ..."""
    torch.manual_seed(0)
    trained = [p for p in executor.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr, 0.9)
    executor.train()
    for _ in range(steps):
        outputs = [y.flatten(1) for y in executor(torch.from_numpy(inputs))]
        labels = [torch.arange(len(inputs)) % y.shape[1] for y in outputs]
        loss = sum(F.cross_entropy(y, t) for y, t in zip(outputs, labels, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    executor.eval()


def run_updates(executor: Executor, steps: Iterable[int], observer: Observer | None = None, lr: float = 0.01) -> None:
    """SGD without momentum: what a step does depends on nothing but the weights and its number."""
    observer = observer or Observer()
    optimizer = torch.optim.SGD([p for p in executor.parameters() if p.requires_grad], lr)
    observer.on_start(executor)
    executor.train()
    for step in steps:
        inputs, labels = batch_of(step)
        optimizer.zero_grad()
        F.cross_entropy(executor(inputs)[0].flatten(1), labels).backward()
        observer.before_update(executor, step)
        optimizer.step()
        observer.after_update(executor, step)
    executor.eval()
    observer.on_end(executor)


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def state(companions: Sequence[Companion]) -> dict[str, torch.Tensor]:
    states = enumerate(map(state_of, companions))
    return {f"{number}.{name}": tensor for number, found in states for name, tensor in found.items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
