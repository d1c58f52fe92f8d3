"""Random numbers of the data: one generator per purpose, keyed by (seed, epoch), so that neither disturbs the other."""

import numpy as np

SHUFFLE, AUGMENT, HOLD_OUT = range(3)


def generator(seed: int, epoch: int, purpose: int, part: int = 0) -> np.random.Generator:
    """The generator of this purpose; `part` counts the pieces of a stream whose length is not known."""
    return np.random.default_rng([seed, epoch, purpose, part])
