"""A few plain updates of a small network, with an observer looking on."""

from collections.abc import Iterable

import torch
from quantized_models import quantized, residual_network
from torch.nn import functional as F

from qpipe.train.executor import Executor
from qpipe.train.observer import Observer


def small_executor(bits: int = 8, seed: int = 0) -> Executor:
    return Executor(quantized(residual_network(seed), bits=bits))


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 3, 8, 8, generator=generator), torch.randint(10, (16,), generator=generator)


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
