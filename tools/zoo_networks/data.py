"""Data that look like what networks read, drawn from a seed: images of objects in front of others, sounds, features.

Images are dead leaves: disks of one colour each, their radii by a power law, each laid over those before it; their
edges, flat parts and 1/f spectra are those of photographs (Lee, Mumford and Huang 2001).
"""

import numpy as np
import numpy.typing as npt

from zoo_networks.parts import Entry, Kind

FloatArray = npt.NDArray[np.float32]
LEAVES = 60
WORDS = 200


def draw(entry: Entry, count: int, seed: int) -> list[npt.NDArray[np.generic]]:
    """An array for each input, [count, *shape]."""
    rng = np.random.default_rng([seed, count])
    return [of_kind(entry.kind(index), (count, *shape), rng) for index, shape in enumerate(entry.shapes)]


def of_kind(kind: Kind, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.generic]:
    """What an input of this kind holds; shape: with the batch, of images [N, C, H, W], or [N, C, T, H, W] of films."""
    if kind == "tokens":
        # Few words are frequent, as in any language.
        return np.minimum(rng.zipf(1.3, shape), WORDS) - 1
    if kind in ("image", "pixels", "bytes"):
        flat = np.stack([_leaves((shape[1], *shape[-2:]), rng) for _ in range(shape[0])])
        if len(shape) == 5:
            flat = np.stack([np.roll(flat, frame, -1) for frame in range(shape[2])], 2)
        # By the means and deviations of photographs, as classifiers are fed.
        factor, offset = {"image": (1 / 0.226, -0.449 / 0.226), "pixels": (1, 0), "bytes": (255, 0)}[kind]
        return (flat * factor + offset).astype(np.float32)
    if kind == "signal":
        return _sounds(shape, rng)
    if kind == "features":
        return _features(shape, rng)
    return rng.standard_normal(shape).astype(np.float32)


def _leaves(shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """An image [C, H, W] in [0, 1], of 8 bits."""
    C, H, W = shape
    y, x = np.mgrid[:H, :W]
    light = rng.uniform(0.2, 0.8)
    image = np.full(shape, light)
    radii = 2 * rng.pareto(1.5, LEAVES) + 1.5
    for radius in np.minimum(radii, max(H, W)):
        cy, cx = rng.uniform(0, H), rng.uniform(0, W)
        covered = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        # Colours differ less than brightness does.
        colour = light + rng.normal(0, 0.25) + rng.normal(0, 0.07, C)
        image[:, covered] = colour[:, None]
    image += rng.normal(0, 0.01, shape)
    return (np.round(np.clip(image, 0, 1) * 255) / 255).astype(np.float32)


def _sounds(shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Waves of some harmonics that swell and fade over 1/f noise, within [-1, 1]; time is the last axis."""
    time = np.arange(shape[-1])
    pitch = rng.uniform(0.005, 0.05, (*shape[:-1], 1, 1))
    harmonics = np.arange(1, 6)[:, None]
    loud = rng.exponential(1 / harmonics, (*shape[:-1], 5, 1))
    waves = (loud * np.sin(2 * np.pi * pitch * harmonics * time + rng.uniform(0, 6, loud.shape))).sum(-2)
    swell = np.exp(-(((time / shape[-1] - rng.uniform(0.2, 0.8, (*shape[:-1], 1))) / 0.2) ** 2))
    return np.clip(0.3 * waves * swell + 0.02 * _pink(shape, rng), -1, 1).astype(np.float32)


def _features(shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Smooth along the last two axes, and on a scale of its own for each index of the last, as MFCC are."""
    smooth = _pink(shape, rng)
    scale = np.linspace(3, 0.5, shape[-1])
    return (smooth * scale + np.linspace(-2, 0.5, shape[-1])).astype(np.float32)


def _pink(shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Noise whose amplitude falls with frequency along the last axis; of unit variance."""
    spectrum = np.fft.rfft(rng.standard_normal(shape))
    spectrum /= np.sqrt(np.arange(1, spectrum.shape[-1] + 1))
    noise = np.fft.irfft(spectrum, shape[-1])
    return noise / (noise.std() + 1e-9)
