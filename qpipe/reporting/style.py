"""How every figure of the report looks, and how it becomes SVG that stands in a page.

One input gives one text: ids are hashed with a fixed salt, and no date is written. Text stays text, in the page's font.
"""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from qpipe.errors import printable
from qpipe.ir.files.write import atomic_path

WIDTH: Final = 10.8
"""Inches of a figure as wide as the page: at 1,040 pixels, a point is 1.34 of them."""
DOTS_PER_INCH: Final = 160
INK: Final = "#1c2430"
FAINT: Final = "#5b6675"
COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's palette, told apart with any colour vision; markers tell them apart in print."""
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
_RC: Any = {
    "svg.fonttype": "none",
    # A dollar in a name is a dollar.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa4b1",
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e7ec",
    "grid.linewidth": 0.8,
    "xtick.color": "#9aa4b1",
    "ytick.color": "#9aa4b1",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
}


MOST_NAMES: Final = 48
"""More layers than these get numbers."""
LEGEND_LETTERS: Final = 130
HANDLE_LETTERS: Final = 6
LONGEST_LABEL: Final = 32


@dataclass(frozen=True)
class Look:
    """How one run is drawn wherever it appears."""

    color: str
    marker: str


def look(index: int) -> Look:
    """The look of run `index`; after the seventh run they come again."""
    return Look(COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)])


@contextmanager
def drawing(height: float) -> Iterator[Figure]:
    """A figure of the page's width and `height` inches, in the report's style; use it inside the block."""
    with mpl.rc_context(_RC):
        yield Figure(figsize=(WIDTH, height), layout="constrained")


def to_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element that takes its container's width; `description` is for who can't see it.

    name: a word of its own for each figure of a page, which goes into its ids.
    """
    buffer = io.StringIO()
    with mpl.rc_context({**_RC, "svg.hashsalt": name}):
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Groups have ids that nothing refers to, the same ones in each figure; the others get the figure's name.
    text = re.sub(r' id="\w+_\d+"', "", text)
    text = re.sub(r'( id="|"#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    label = escape(printable(description), quote=True)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).rstrip()


def save_picture(figure: Figure, path: str | os.PathLike[str], name: str, description: str) -> None:
    """Write the figure as a file of its own, SVG by the suffix `.svg`, PNG otherwise; `name` as in `to_svg`.

    Call it inside the block of `drawing`. Raises OutputError; nothing half-written is left.
    """
    with atomic_path(path) as temporary:
        if temporary.suffix.lower() == ".svg":
            temporary.write_text(f"{to_svg(figure, name, description)}\n", encoding="utf-8")
        else:
            figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})


def legend_of_runs(figure: Figure, names: Sequence[str], handles: Sequence[Any]) -> None:
    """One legend above all panels, in the order of the runs."""
    labels = [shortened(name) for name in names]
    fits = sum(len(label) + HANDLE_LETTERS for label in labels) <= LEGEND_LETTERS
    columns = len(labels) if fits else max(1, LEGEND_LETTERS // (max(map(len, labels)) + HANDLE_LETTERS))
    figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), columns), handlelength=2.2)


def shortened(name: str) -> str:
    """A run's name where there is little room."""
    shown = printable(name)
    return shown if len(shown) <= LONGEST_LABEL else f"{shown[: LONGEST_LABEL - 1]}…"


def label_layers(axes: Any, names: Sequence[str]) -> None:
    """The layers' names under an axis whose positions are 0, 1, ...; numbers where there are too many."""
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="x")
    if len(names) > MOST_NAMES:
        step = -(-len(names) // MOST_NAMES)
        axes.set_xticks(range(0, len(names), step), [str(i + 1) for i in range(0, len(names), step)])
        axes.set_xlabel("layer")
        return
    axes.set_xticks(
        range(len(names)), list(map(printable, names)), rotation=40, ha="right", rotation_mode="anchor", fontsize=8
    )


def short_names(names: Sequence[str]) -> list[str]:
    """`/layer1/layer1.0/conv1/Conv` is "layer1.0/conv1", while that is still one layer's alone."""
    tidy = [_without_repetition(name) for name in names]
    shorter = [name.rpartition("/")[0] or name for name in tidy]
    return [
        short if shorter.count(short) == 1 and short not in tidy[:i] + tidy[i + 1 :] else name
        for i, (short, name) in enumerate(zip(shorter, tidy, strict=True))
    ]


def _without_repetition(name: str) -> str:
    """Without the leading slash, and without a part that the next one says again: "layer1" before "layer1.0"."""
    parts = [part for part in name.split("/") if part] or [name]
    kept = [part for part, following in itertools.pairwise(parts) if not following.startswith(f"{part}.")]
    return "/".join([*kept, parts[-1]])
