"""Which folders of a data set are splits, by their names, and which are classes.

    train, Training, train_set, trainval, train2017        train
    val, valid, Validation, dev, eval, val_images          val
    test, Testing, test-set                                test

What can be read in two ways is refused: splits beside other folders, two folders that mean one split.
"""

from __future__ import annotations

import re
from pathlib import Path

from qpipe.data.listing import list_folder
from qpipe.data.source import Split
from qpipe.errors import DataError

_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "development", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_FORM = re.compile(rf"({'|'.join(_NAMES)})(?:[ _-]?(?:set|data|dataset|split|images|imgs))?(?:[ _-]?\d{{4}})?")


def split_of(name: str) -> Split | None:
    """The split that a folder of this name is, by its usual names and without regard to case; None: it is none."""
    found = _FORM.fullmatch(name.lower())
    return None if found is None else _NAMES[found[1]]


def split_folders(root: Path, folders: list[Path]) -> dict[Split, Path]:
    """Of the folders of a data set those of the splits; none where they are classes. Raises DataError."""
    named = [(split, folder) for folder in folders if (split := split_of(folder.name)) is not None]
    others = [folder for folder in folders if split_of(folder.name) is None]
    if others and (not named or _is_class_of(named, others)):
        return {}
    if others:
        shown, first = " and ".join(repr(folder.name) for _, folder in named[:2]), others[0].name
        raise DataError(
            f"folder '{root}': {shown} {'is a split' if len(named) == 1 else 'are splits'}, {first!r} is none; "
            "expected splits alone, or class folders alone"
        )
    found: dict[Split, Path] = {}
    for split, folder in named:
        if split in found:
            raise DataError(
                f"folder '{root}': {found[split].name!r} and {folder.name!r} both mean {split!r}, expected one of them"
            )
        found[split] = folder
    return found


def _is_class_of(named: list[tuple[Split, Path]], others: list[Path]) -> bool:
    """Whether the one folder called like a split is a class, such as of trains: images lie in it, as in the others."""
    return len(named) == 1 and all(list_folder(folder).images for folder in (named[0][1], *others))
