"""The best epoch by images that nobody trained on: its network is what is written.

Which epoch is chosen must not depend on the test images, or their accuracy is no test any more.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import torch
from pydantic import JsonValue

from qpipe.train.companion import Companion
from qpipe.train.executor import Executor
from qpipe.train.together import together


class BestEpoch(Companion):
    """Keeps the network of the epoch that is judged best; of equal ones the last.

    judge: the network's metric as it is, on the images that were held out; None in a process that does not count.
    rises: whether a better network has a larger one. `number`: the epoch, from 1, and `metric` its metric; 0 and NaN
    before the first.
    """

    number: torch.Tensor
    metric: torch.Tensor

    def __init__(self, network: Executor, judge: Callable[[], float | None], *, rises: bool) -> None:
        super().__init__()
        self._judge, self._is_as_good = judge, operator.ge if rises else operator.le
        # Behind a function, so that the network is no module of this one.
        self._state: Callable[[], dict[str, torch.Tensor]] = lambda: network.state_dict()
        self._put_back: Callable[[dict[str, torch.Tensor]], object] = lambda state: network.load_state_dict(state)
        self.register_buffer("number", torch.zeros((), dtype=torch.int64))
        self.register_buffer("metric", torch.full((), torch.nan, dtype=torch.float64))
        for index, tensor in enumerate(self._state().values()):
            self.register_buffer(f"best{index}", tensor.clone())

    @torch.no_grad()
    def end_epoch(self, number: int) -> None:
        """Judge the network, and keep it where it is as good as the best so far."""
        found = torch.tensor(self._judge() or 0.0, dtype=torch.float64, device=self.metric.device)
        together().add_up([found])  # one process counts, and all keep the same epoch
        if not self.number or self._is_as_good(float(found), float(self.metric)):
            self.number.fill_(number)
            self.metric.copy_(found)
            for index, tensor in enumerate(self._state().values()):
                self.get_buffer(f"best{index}").copy_(tensor)

    def facts(self) -> Mapping[str, JsonValue]:
        """Which epoch it was."""
        return {"best_epoch": {"number": int(self.number), "held_out": float(self.metric)}}

    def end_training(self) -> bool:
        """Put the best epoch's network in the place of the last one's, statistics and all."""
        self._put_back({name: self.get_buffer(f"best{index}") for index, name in enumerate(self._state())})
        return False
