"""What is wrong with a calibrated network, in a line for each thing: the node, what was found, and what to do.

What a bound is here was measured on pretrained networks (ResNet-20, ResNet-8 and DS-CNN, calibrated only): at 8 bits
none of their tensors has less than 16 dB, at 4 bits less than 5; at most a sixteenth of its channels has fewer than 2
levels. At 2 and 3 bits a network is to be trained first, as are formats that are not fixed-point: nothing is said of
these.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from qpipe.calibration.comparison import float_name
from qpipe.ir.graph.affine import read_affine
from qpipe.ir.quantized.compared import NetworkComparison, TensorComparison
from qpipe.ir.quantized.final_weights import float_rows
from qpipe.ir.quantized.view import QuantizedLayer, View, is_final, is_trainable
from qpipe.nodes import describe
from qpipe.ops.weight_layout import to_rows

LEAST_BITS = 4
"""Narrower networks are to be trained before anybody looks at them."""
MOST_LOST = 0.25
"""Of a tensor's channels, in silence."""
KEPT = 2.0
"""Times the least decibels: 16 at 8 bits, which every tensor of good networks has."""
LEAST_AGREEMENT = 0.5
BURIED = 2.0**24
_FIRST = "the first in the network: look at its layer; --layer NAME:stays_float=true keeps one in float"
"""A weight that is so many times its channel's median leaves nothing of the others in float32 sums either."""


@dataclass(frozen=True)
class Finding:
    """weight: how bad it is; the worst comes first."""

    line: str
    weight: float


def least_decibels(bits: int) -> float:
    """Of signal to noise: what a tensor of a network whose narrowest tensor has so many bits has at least."""
    return 2.0 * (bits - LEAST_BITS)


def find_problems(compared: NetworkComparison, trainable: View, final: View) -> list[str]:
    """A line for each, the worst first.

    trainable, final: the calibrated network before and after it is finalized.
    """
    bits = _narrowest(trainable)
    found = _of_weights(trainable, final)
    if bits >= LEAST_BITS:
        found += _of_channels(compared.tensors, _told_by_results(compared.tensors, trainable, bits))
        found += _of_noise(compared.tensors, bits)
        if compared.agreement is not None and compared.agreement < LEAST_AGREEMENT:
            advice = "give it more bits" if bits < 8 else "look at where the signal is lost (`qpipe inspect`)"
            line = (
                f"the first choice is the float network's on {round(compared.agreement * compared.images)} of "
                f"{compared.images} images of the calibration data: {advice}, or train "
                "it (`qpipe finetune`)"
            )
            found.append(Finding(line, 4))
    return [finding.line for finding in sorted(found, key=lambda finding: -finding.weight)]


def _narrowest(view: View) -> int:
    widths = [layer.quantizer.grid.bits for layer in view.layers if layer.quantizer is not None]
    widths += [layer.weight.bits for layer in view.layers if is_trainable(layer)]
    return min(widths, default=8)


def _of_weights(trainable: View, final: View) -> list[Finding]:
    """Channels of weights that are all zero on their grid, and such as hold one weight alone."""
    integers = {layer.name: layer for layer in final.layers if is_final(layer)}
    found = []
    for layer in trainable.layers:
        if not is_trainable(layer) or layer.name not in integers or not layer.weight.format.holds_floats:
            continue
        rows = np.abs(float_rows(layer))
        used = np.count_nonzero(to_rows(layer.node, integers[layer.name].weight.codes), axis=1)
        has_any = rows.any(axis=1) & (read_affine(layer, len(rows)).k != 0)
        gone = np.flatnonzero(has_any & (used == 0))
        # Pretrained networks have some channels whose products are less than a step of the output: nothing is lost.
        if gone.size and (layer.quantizer is None or gone.size >= MOST_LOST * len(rows)):
            line = (
                f"{describe(layer.node)}: all weights of {_channels(gone, len(rows))} are 0 on their grid, the largest "
                f"of them {rows[gone].max():.3g}: they are too small beside the layer's other channels, its bias or "
                "its output; rescale the network's channels, or take these away"
            )
            found.append(Finding(line, 3 * gone.size / len(rows)))
        for channel in np.flatnonzero(has_any & (used == 1)):
            own = rows[channel][rows[channel] > 0]
            if own.size > 2 and (ratio := own.max() / np.median(own)) > BURIED:
                line = (
                    f"{describe(layer.node)}: one weight of channel {channel} is {ratio:.1e} times the median of the "
                    "others, which are all 0 beside it; look for a damaged weight"
                )
                found.append(Finding(line, 2))
    return found


def _told_by_results(tensors: Sequence[TensorComparison], view: View, bits: int) -> set[str]:
    """Tensors that no weights read, and of which everything that is computed keeps its signal.

    A small channel of queries is nothing beside the others in their product with keys: that is what tells.
    """
    decibels = {tensor.tensor: tensor.decibels for tensor in tensors}
    readers: dict[str, list[QuantizedLayer]] = {}
    for layer in view.layers:
        for source in layer.sources:
            readers.setdefault(float_name(source), []).append(layer)

    def is_kept(name: str) -> bool:
        found = readers.get(name, [])
        return bool(found) and all(map(keeps, found))

    def keeps(layer: QuantizedLayer) -> bool:
        if layer.is_weighted or layer.quantizer is None:
            return False
        name = float_name(layer.quantizer)
        return decibels[name] >= KEPT * least_decibels(bits) if name in decibels else is_kept(name)

    return {tensor.tensor for tensor in tensors if tensor.lost and is_kept(tensor.tensor)}


def _of_channels(tensors: Sequence[TensorComparison], kept: Set[str]) -> list[Finding]:
    """Tensors that lose many of their channels; kept: those of which nothing is lost by it."""
    found = []
    for tensor in tensors:
        if tensor.lost and tensor.tensor not in kept and len(tensor.lost) >= MOST_LOST * tensor.channels:
            channel, ratio = tensor.largest
            line = (
                f"{tensor.layer}: {_channels(np.array(tensor.lost), tensor.channels)} of '{tensor.tensor}' keep fewer "
                f"than 2 levels beside channel {channel}, which reaches {ratio:.3g} times the median channel; look at "
                "what makes it so large, or leave it out of the range with --percentile"
            )
            found.append(Finding(line, 1 + len(tensor.lost) / tensor.channels))
    return found


def _of_noise(tensors: Sequence[TensorComparison], bits: int) -> list[Finding]:
    """Tensors with little signal left. Noise is carried on, so the first of them says where to look."""
    limit = least_decibels(bits)
    noisy = [tensor for tensor in tensors if tensor.decibels < limit]
    found = []
    for index, tensor in enumerate(noisy):
        where = _FIRST if not index else "behind the first one"
        line = (
            f"{tensor.layer}: signal to noise of '{tensor.tensor}' is {tensor.decibels:g} dB, expected {limit:g} or "
            f"more at {bits} bits ({where})"
        )
        found.append(Finding(line, 1 if not index else 0.5 - tensor.decibels / 1000))
    return found


def _channels(which: np.ndarray, count: int) -> str:
    """Such as "2 of 16 channels (3, 7)"."""
    shown = ", ".join(str(int(channel)) for channel in which[:4]) + (", ..." if len(which) > 4 else "")
    return f"{len(which)} of {count} channels ({shown})"
