"""Networks of the kinds that people have, written compactly, narrower than published and with random weights.

One family a file; importing the package enters them all in `ZOO`.
"""

from zoo_networks import (
    audio,
    classics,
    dense_outputs,
    detectors,
    generators,
    hybrids,
    mobile,
    resnets,
    speech,
    tiny,
    transformers,
    unlike,
)
from zoo_networks.parts import ZOO, Entry

__all__ = [
    "ZOO", "Entry", "audio", "classics", "dense_outputs", "detectors", "generators", "hybrids", "mobile", "resnets",
    "speech", "tiny", "transformers", "unlike",
]  # fmt: skip
