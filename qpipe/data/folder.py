"""A folder with one folder of images per class, below `train`, `val` and `test` where there are splits.

    photos/cat/1.jpg  photos/dog/2.jpg           or           photos/train/cat/1.jpg  photos/test/cat/2.jpg

Classes are numbered in the order of their names over all splits, so that a class that one split lacks shifts no label.
Images that lie in the folder itself, without class folders, are unlabelled data.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from qpipe.data.geometry import fit_image
from qpipe.data.pixels import PixelSource
from qpipe.data.preprocess import Pixels, Preprocess
from qpipe.data.reading import ReaderStore
from qpipe.data.source import SPLITS, SourceInfo, Split, choose_split, undivided_note
from qpipe.errors import DataError, one_line

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_SPLIT_FOLDERS: dict[str, str] = {split: split for split in SPLITS} | {"valid": "val", "validation": "val"}


def open_folder(root: Path, split: Split, preprocess: Preprocess) -> PixelSource:
    """The images below `root`. Raises DataError for a folder without images and for a class folder without any."""
    name = str(root)
    splits = _split_folders(root)
    note: str | None
    if splits:
        chosen, note = choose_split(set(splits), split, name)
        folder = splits[chosen]
        classes = sorted({child.name for each in splits.values() for child in _folders(each)})
    else:
        folder, note = root, undivided_note(name, split)
        classes = [child.name for child in _folders(root)]
    paths, labels = _labelled(folder, classes) if _folders(folder) else (_images(folder, deep=False), None)
    if not paths:
        raise DataError(f"folder '{folder}' holds no images, expected class folders with {_shown_extensions()} files")
    store = ReaderStore(FolderReader(paths, preprocess))
    info = SourceInfo(name, preprocess, tuple(classes) if labels is not None else None, note)
    return PixelSource(info, store, None if labels is None else np.array(labels, np.int64))


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
        try:
            image = _decode(self.paths[index], "L" if self.preprocess.color == "GRAY" else "RGB")
        except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
            raise DataError(f"{self.name(index)} can't be read: {one_line(error)}") from None
        pixels = np.asarray(fit_image(image, self.preprocess, self.name(index)))
        if pixels.ndim == 2:
            return pixels[..., None]
        return self.preprocess.recolor(pixels, self.name(index))


def _decode(path: str, mode: str) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        if image.mode == "P" and "transparency" in image.info:  # Pillow warns on the direct way
            return image.convert("RGBA").convert(mode)
        return image.convert(mode)


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits, by split; none where any folder has another name (then all are classes)."""
    folders = _folders(root)
    if not folders or any(folder.name not in _SPLIT_FOLDERS for folder in folders):
        return {}
    return {_SPLIT_FOLDERS[folder.name]: folder for folder in folders}


def _labelled(folder: Path, classes: list[str]) -> tuple[list[str], list[int]]:
    paths: list[str] = []
    labels: list[int] = []
    for child in _folders(folder):
        found = _images(child, deep=True)
        if not found:
            raise DataError(f"class folder '{child}' holds no images, expected {_shown_extensions()} files")
        paths += found
        labels += [classes.index(child.name)] * len(found)
    return paths, labels


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError as error:
        raise DataError(f"folder '{root}' can't be read: {one_line(error)}") from None


def _images(folder: Path, *, deep: bool) -> list[str]:
    """Paths of the image files in a folder, sorted; with `deep` also of those in folders below it."""
    found: list[str] = []
    for parent, below, files in os.walk(folder):
        found += (
            os.path.join(parent, file)
            for file in files
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in EXTENSIONS
        )
        if not deep:
            below.clear()
    return sorted(found)


def _shown_extensions() -> str:
    return " ".join(sorted(EXTENSIONS))
