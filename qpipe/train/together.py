"""Several processes that train one network: each has its share of every batch, and all make the same update."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch

from qpipe.processes import join_processes, process_count


@dataclass(frozen=True)
class Together:
    """Process `index` of `count`, and the device that it computes on."""

    index: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process evaluates, looks on and writes."""
        return self.index == 0

    @torch.no_grad()
    def add_up(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in one exchange for each type; nothing to do alone."""
        if self.count == 1:
            return
        from accelerate.utils import reduce

        by_type: dict[torch.dtype, list[torch.Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor)
        for group in by_type.values():
            flat = reduce(torch.cat([tensor.reshape(-1) for tensor in group]), "sum")
            for tensor, total in zip(group, flat.split([tensor.numel() for tensor in group]), strict=True):
                tensor.copy_(total.view_as(tensor))


@lru_cache(maxsize=1)
def together() -> Together:
    """This process among those that the launcher started, or alone on the machine's GPU or CPU."""
    # One seed, one result: on a GPU what is faster adds up in any order.
    torch.backends.cudnn.deterministic = True
    if process_count() > 1:
        state = join_processes()
        return Together(state.process_index, state.num_processes, state.device)
    return Together(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
