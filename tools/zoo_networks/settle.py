"""Random weights that give what trained ones give: heavy tails, unequal channels, statistics that fit the data."""

import zlib

import numpy as np
import torch
from torch import nn

from zoo_networks.data import draw
from zoo_networks.parts import ZOO, Residual

WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TAIL = 5
"""Degrees of freedom of Student's t, which weights are drawn from: their kurtosis is that of trained ones, about 9."""
SPREAD = 0.4
"""Deviation of the logarithm of each channel's size."""
SMOOTH = 1.0
"""Deviation of what all places of a kernel have in common, beside that of each."""
BRANCH = 0.4
"""What the last normalization of a residual branch is multiplied by: in trained networks the skip carries most."""
BATCHES, BATCH_SIZE = 3, 16


def settled(name: str) -> nn.Module:
    """The network of the zoo in evaluation mode, always the same."""
    entry = ZOO.entries[name]
    seed = zlib.crc32(name.encode())
    torch.manual_seed(seed)
    network = entry.make()
    generator = np.random.default_rng(seed)
    for module in network.modules():
        _draw_weights(module, generator)
    for module in network.modules():
        if isinstance(module, Residual):
            norms = [part for part in module.body.modules() if isinstance(part, NORMS)]
            for norm in norms[-1:]:
                norm.weight.data *= BRANCH
    batches = [[torch.from_numpy(array) for array in draw(entry, BATCH_SIZE, seed + 1 + i)] for i in range(BATCHES)]
    _even_out(network, batches[0])
    for module in network.modules():
        if isinstance(module, NORMS):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over the batches
    network.train()
    with torch.no_grad():
        for batch in batches:
            network(*batch)
    return network.eval()


def _draw_weights(module: nn.Module, rng: np.random.Generator) -> None:
    """Weights by He et al. 2015 with the tails and spread above; biases small; what normalizes has unequal channels."""
    if isinstance(module, WEIGHTED):
        weight = module.weight.data
        transposed = isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d)
        channels = weight.shape[1 if transposed else 0]
        values = rng.standard_t(TAIL, tuple(weight.shape)) * (weight[0].numel() * TAIL / (TAIL - 2) / 2) ** -0.5
        if weight.ndim > 2:
            # Kernels of trained networks are smooth: neighbours have much in common.
            values += SMOOTH * rng.standard_t(TAIL, (*weight.shape[:2], *[1] * (weight.ndim - 2))) * values.std()
        size = np.exp(rng.normal(0, SPREAD, channels)).reshape(-1, *[1] * (weight.ndim - (2 if transposed else 1)))
        module.weight.data = torch.from_numpy((values * size).astype(np.float32))
        if module.bias is not None:
            module.bias.data = torch.from_numpy(rng.normal(0, 0.05, tuple(module.bias.shape)).astype(np.float32))
    elif isinstance(module, NORMS) or (isinstance(module, nn.LayerNorm) and module.elementwise_affine):
        count = module.weight.numel()
        module.weight.data = torch.from_numpy(np.exp(rng.normal(0, SPREAD, count)).astype(np.float32))
        module.bias.data = torch.from_numpy(rng.normal(-0.1, 0.3, count).astype(np.float32))
    elif isinstance(module, nn.PReLU):
        module.weight.data = torch.from_numpy(rng.uniform(-0.1, 0.4, module.weight.numel()).astype(np.float32))


def _even_out(network: nn.Module, batch: list[torch.Tensor]) -> None:
    """Turn each layer's weights to what its input varies in, and scale them so that it gives a unit variance.

    In the order in which layers run (Mishkin and Matas 2016), once for each, however often it runs. Weights that learn
    align with what they read (Radhakrishnan et al. 2024); without it a deep random network is chaotic, and all that it
    gives is noise once anything is rounded.
    """
    done: set[nn.Module] = set()

    def before(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if module not in done and getattr(module, "groups", 1) == 1:
            _align(module, inputs[0])

    def behind(module: nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        if module in done:
            return output
        done.add(module)
        factor = 1 / (output.std() + 1e-6)
        module.weight.data *= factor
        if module.bias is None:
            return output * factor
        shape = [-1] if isinstance(module, nn.Linear) else [1, -1, *[1] * (output.ndim - 2)]
        bias = module.bias.data.view(shape)
        return (output - bias) * factor + bias

    layers = [module for module in network.modules() if isinstance(module, WEIGHTED)]
    hooks = [layer.register_forward_pre_hook(before) for layer in layers]
    hooks += [layer.register_forward_hook(behind) for layer in layers]
    network.train()
    with torch.no_grad():
        network(*batch)
    for handle in hooks:
        handle.remove()


def _align(module: nn.Module, x: torch.Tensor) -> None:
    """Multiply the weights, along the input channels, by the root of these channels' covariance."""
    rows = x.flatten(0, -2) if isinstance(module, nn.Linear) else x.transpose(0, 1).flatten(1).T
    values, vectors = torch.linalg.eigh(torch.cov(rows.T).reshape(rows.shape[1], -1))
    # A part in every direction: weights of a few directions alone would be no weights.
    root = (vectors * (values.clamp(min=0) + values.mean() / 50 + 1e-12).sqrt()) @ vectors.T
    axis = 0 if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d) else 1
    module.weight.data = torch.tensordot(module.weight.data, root, dims=([axis], [0])).movedim(-1, axis).contiguous()
