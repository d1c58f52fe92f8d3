"""Images, labels and arrays: where they come from, and what the network sees of them.

- `preprocess`: what happens to a pixel before the network (also what the integer export builds its table from)
- `source`: the one interface of all data: `Source.batches`
- `opening`: `open_data`, which finds out what `data` is
- `folder`, `npz`, `digits`, `python_data`: one file per kind of data
- `pixels`, `arrays`: sources of uint8 images and of float arrays
- `reading`: images decoded in worker processes, kept in memory while they fit
- `augment`: random crop and flip
- `checks`: labels, pixels and shapes that can't be used

Nothing here imports torch before images are decoded in worker processes.
"""

from qpipe.data.augment import Augment
from qpipe.data.checks import check_fits, check_labels
from qpipe.data.opening import DataLike, open_data
from qpipe.data.preprocess import Preprocess
from qpipe.data.source import Batch, Portion, Source, Split

__all__ = [
    "Augment",
    "Batch",
    "DataLike",
    "Portion",
    "Preprocess",
    "Source",
    "Split",
    "check_fits",
    "check_labels",
    "open_data",
]
