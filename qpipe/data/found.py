"""What was found where data were looked for: said once by a command, so that a wrong guess is seen."""

from __future__ import annotations

from dataclasses import dataclass

from qpipe.errors import printable

_SHOWN = 3
"""Names that the line shows in front, before the last one."""


@dataclass(frozen=True)
class Found:
    """Data as they were opened.

    name: the path or name that was given. splits: all that there are, none where the data are undivided. split: the one
    that was opened. samples: None of a stream. content: what a sample is, such as "PNG, RGB, 32x32". classes: their
    names in the order of the labels, None without names. labels: such as "0 to 9" or "not read", None without any.
    remarks: what happens to the data that a user might not expect.
    """

    name: str
    splits: tuple[str, ...]
    split: str | None
    samples: int | None
    content: str
    classes: tuple[str, ...] | None
    labels: str | None
    remarks: tuple[str, ...] = ()

    def line(self) -> str:
        """All of it in one line."""
        which = f"split {self.split!r} of {', '.join(self.splits)}" if self.splits else "no splits"
        count = "a stream" if self.samples is None else f"{self.samples:,} sample{'s' if self.samples != 1 else ''}"
        return f"data {self.name!r}, {which}: " + "; ".join(
            [f"{count} ({self.content})", self._shown_classes(), *self.remarks]
        )

    def _shown_classes(self) -> str:
        if self.labels is None:
            return "labels with the samples" if self.samples is None else "no labels"
        if self.classes is None:
            return f"labels {self.labels}"
        names = [printable(" ".join(name.split())) for name in self.classes]
        if len(names) > _SHOWN + 1:
            names = [*names[:_SHOWN], "...", names[-1]]
        return f"{len(self.classes)} class{'es' if len(self.classes) != 1 else ''}: {', '.join(names)}"
