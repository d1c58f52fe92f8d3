"""A folder with one folder of images per class, below folders of splits where there are any.

    photos/cat/1.jpg  photos/dog/2.jpg           or           photos/train/cat/1.jpg  photos/test/cat/2.jpg

Classes are numbered in the order of their names over all splits, so that a class that one split lacks shifts no label.
Images that lie in the folder itself, without class folders, are unlabelled data. What can be read in two ways is
refused.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from qpipe.data.geometry import fit_image
from qpipe.data.image_file import look_at, read_image
from qpipe.data.listing import identity_of, list_all, list_folder, shown_extensions
from qpipe.data.pixels import PixelSource
from qpipe.data.preprocess import Pixels, Preprocess
from qpipe.data.reading import ReaderStore
from qpipe.data.source import SourceInfo, Split, choose_split, undivided_note
from qpipe.data.split_folders import split_folders
from qpipe.errors import DataError


def open_folder(root: Path, split: Split, preprocess: Preprocess) -> PixelSource:
    """The images below `root`. Raises DataError for a folder without images and for a class folder without any."""
    name, top = str(root), list_folder(root)
    splits = split_folders(root, top.folders)
    note: str | None
    if splits:
        _refuse_images_beside(root, top.images)
        chosen, note = choose_split(splits, split, name)
        folder, classes = splits[chosen], _classes_of(splits)
    else:
        chosen, folder, note = split, root, undivided_note(name, split)
        classes = [child.name for child in top.folders]
    paths, labels, others = _images_of(folder, classes)
    if not paths:
        left = f" ({_shown_others(others)})" if others else ""
        raise DataError(
            f"folder '{folder}' holds no images{left}, expected class folders with {shown_extensions()} files"
        )
    known = None if labels is None else np.array(labels, np.int64)
    names = None if labels is None else tuple(classes)
    remarks = (f"not read: {_shown_others(others)}",) if others else ()
    look = look_at(paths)
    shown: dict[str, Any] = {"content": look.line(), "remarks": (*look.remarks, *remarks)}
    info = SourceInfo(name, preprocess, names, note, splits=tuple(splits), split=chosen, **shown)
    return PixelSource(info, ReaderStore(FolderReader(paths, preprocess)), known)


class FolderReader:
    """Images by path."""

    def __init__(self, paths: list[str], preprocess: Preprocess) -> None:
        self.paths, self.preprocess = paths, preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The image's path."""
        return f"image '{self.paths[index]}'"

    def read(self, index: int) -> Pixels:
        """Decode, recolour, resize and crop one image to uint8 [H, W, C]. Raises DataError that names the file."""
        image = read_image(self.paths[index], "L" if self.preprocess.color == "GRAY" else "RGB")
        pixels = np.asarray(fit_image(image, self.preprocess, self.name(index)))
        if pixels.ndim == 2:
            return pixels[..., None]
        return self.preprocess.recolor(pixels, self.name(index))


def _classes_of(splits: dict[Split, Path]) -> list[str]:
    """The names of all splits' class folders. Raises DataError where they can't be those of one set of classes."""
    names = {split: {child.name for child in list_folder(folder).folders} for split, folder in splits.items()}
    classes = sorted(set().union(*names.values()))
    folded: dict[str, str] = {}
    for name in classes:
        if (other := folded.setdefault(name.casefold(), name)) != name:
            raise DataError(f"class folders {other!r} and {name!r} differ in upper and lower case only: expected one")
    for split, own in names.items():
        others = set().union(*(each for other, each in names.items() if other != split))
        if own and others and not own & others:
            raise DataError(
                f"folder '{splits[split]}' has the class folders {_shown_names(own)}, the other splits have "
                f"{_shown_names(others)}: expected the same classes"
            )
    return classes


def _images_of(folder: Path, classes: list[str]) -> tuple[list[str], list[int] | None, Counter[str]]:
    """Paths and labels (None without class folders) of a split, and what other files there are."""
    here = list_folder(folder)
    if not here.folders:
        return here.images, None, here.others
    _refuse_images_beside(folder, here.images)
    paths: list[str] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    seen: dict[tuple[int, int], Path] = {}
    for child in here.folders:
        if (other := seen.setdefault(identity_of(child), child)) is not child:
            raise DataError(f"class folders '{other}' and '{child}' are one folder, expected two")
        _refuse_classes_within(child)
        found = list_all(child)
        if not found.images:
            left = f" ({_shown_others(found.others)})" if found.others else ""
            raise DataError(f"class folder '{child}' holds no images{left}, expected {shown_extensions()} files")
        paths += found.images
        labels += [classes.index(child.name)] * len(found.images)
        others += found.others
    return paths, labels, others


def _refuse_images_beside(folder: Path, images: list[str]) -> None:
    if images:
        raise DataError(
            f"folder '{folder}' holds folders and, beside them, {len(images)} images ('{Path(images[0]).name}'): "
            "expected images in class folders, or no folders"
        )


def _refuse_classes_within(folder: Path) -> None:
    """A class folder may hold one folder of images, or some beside its own; several alone may be the classes."""
    here = list_folder(folder)
    if not here.images and len(here.folders) > 1:
        raise DataError(
            f"class folder '{folder}' holds no images of its own, but the folders "
            f"{_shown_names({child.name for child in here.folders})}: expected class folders of images, below 'train', "
            "'val' and 'test' where there are splits"
        )


def _shown_names(names: set[str]) -> str:
    first, *more = sorted(names)
    shown = ", ".join(map(repr, [first, *more[:2]]))
    return shown if len(more) <= 2 else f"{shown}, ... ({len(names)} in all)"


def _shown_others(others: Counter[str]) -> str:
    """Such as "3 .heic and 1 .txt files"."""
    shown = [f"{count} {extension or 'nameless'}" for extension, count in others.most_common(2)]
    more = sum(others.values()) - sum(count for _, count in others.most_common(2))
    return " and ".join(shown) + " files" + (f", {more} more" if more else "")
