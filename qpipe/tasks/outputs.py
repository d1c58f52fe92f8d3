"""What is known of a network's outputs before it is trained or judged."""

from __future__ import annotations

from dataclasses import dataclass

from qpipe.ops.links import Ends


@dataclass(frozen=True)
class OutputFacts:
    """name: of the output. position: among the outputs. shape: of one image's part, None where it has no batch axis.

    is_integer: whether it gives integers. ends: how it comes about.
    """

    name: str
    position: int
    shape: tuple[int, ...] | None
    is_integer: bool
    ends: Ends

    @property
    def rows(self) -> int | None:
        """How many numbers an image has, where they are a row and not a map; None elsewhere."""
        if self.shape is None:
            return None
        sizes = [size for size in self.shape if size != 1]
        return (sizes[0] if sizes else 1) if len(sizes) <= 1 else None

    @property
    def plain_shape(self) -> tuple[int, ...]:
        """Its shape without sizes of 1."""
        return tuple(size for size in self.shape or () if size != 1)

    @property
    def words(self) -> str:
        """Such as "'logits' [N, 10]"."""
        shown = "without a batch axis" if self.shape is None else f"[{', '.join(map(str, ('N', *self.shape)))}]"
        return f"'{self.name}' {shown}"
