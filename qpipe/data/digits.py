"""The embedded default data: scikit-learn's 1,797 handwritten digits, 8x8 pixels of 17 grey levels.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import numpy as np

from qpipe.data.npz import array_source
from qpipe.data.preprocess import Preprocess
from qpipe.data.source import Source, SourceInfo, Split, choose_split
from qpipe.errors import DataError

TRAIN_SHARE = 0.8


def open_digits(split: Split, preprocess: Preprocess) -> Source:
    """Images uint8 [N, 8, 8, 1]: 1,437 to train on and 360 to test on. Raises DataError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("data 'digits' come with scikit-learn, which is not installed: install qpipe[digits]") from None
    digits = load_digits()
    pixels = (digits.images.astype(np.int64) * 255 // 16).astype(np.uint8)[..., None]
    # The file is sorted by writer, so the split is drawn, once and for all: this seed is part of the data.
    order = np.random.default_rng(0).permutation(len(pixels))
    train = int(TRAIN_SHARE * len(pixels))
    chosen, note = choose_split(("train", "test"), split, "digits")
    part = order[:train] if chosen == "train" else order[train:]
    info = SourceInfo(
        "digits", preprocess, tuple(str(digit) for digit in range(10)), note, splits=("train", "test"), split=chosen
    )
    return array_source(info, pixels[part], digits.target[part])
