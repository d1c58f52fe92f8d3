"""Calibration over several processes: batch i is run by process i mod K, and what the batches gave is merged.

Nothing that is merged depends on K: ranges by maximum (FAQ, section 3.2: the maximum over batches), sums batch by
batch in the batches' order. So every process ends with the values that one process alone would have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from qpipe.processes import PATIENCE, join_processes, process_count

Float64Array = npt.NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Process `index` of `count`; one process alone by default, for which merging is nothing."""

    index: int = 0
    count: int = 1

    def share(self, batches: Iterable[T]) -> Iterator[T]:
        """This process's batches; every process must be given all of them, in the same order."""
        return islice(batches, self.index, None, self.count)

    def largest(self, values: Float64Array) -> Float64Array:
        """The elementwise maximum over the processes, of arrays of one shape."""
        if self.count == 1:
            return values
        import torch
        from torch import distributed

        tensor = torch.from_numpy(np.array(values, np.float64))
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=_group())
        return np.asarray(tensor.numpy(), np.float64)

    def in_order(self, rows: Iterable[Float64Array], width: int) -> Iterator[Float64Array]:
        """One row `[width]` for each of this process's batches -> those of all batches, in the batches' order.

        A round at a time, so that memory holds one row of each process.
        """
        if self.count == 1:
            yield from rows
            return
        import torch
        from torch import distributed

        own = iter(rows)
        whole = True
        while whole:
            row = next(own, None)
            # The last value says whether there is a row: the last round may lack some.
            sent = torch.zeros(width + 1, dtype=torch.float64)
            if row is not None:
                sent[:-1] = torch.from_numpy(row)
                sent[-1] = 1
            parts = [torch.empty_like(sent) for _ in range(self.count)]
            distributed.all_gather(parts, sent, group=_group())
            whole = all(part[-1] for part in parts)
            yield from (np.asarray(part[:-1].numpy(), np.float64) for part in parts if part[-1])


ALONE = Shard()


def current_shard() -> Shard:
    """This process's place among those that `torchrun` or `accelerate launch` started; ALONE without them."""
    if process_count() == 1:
        return ALONE
    state = join_processes()
    return Shard(state.process_index, state.num_processes)


@lru_cache(maxsize=1)
def _group() -> Any:
    """Calibration's own group: its tensors are on the CPU, which the group of GPUs can't merge."""
    from torch import distributed

    return distributed.new_group(backend="gloo", timeout=PATIENCE)
