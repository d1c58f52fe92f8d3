"""Numbers in the page's words; what is unknown is a dash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from rich.filesize import decimal

from qpipe.settings.task import METRIC_UNITS


def widths(counts: Mapping[int, int], unit: str) -> str:
    """ "8 bits", or "4 bits; 8 in 2 layers": the most frequent width first, then the exceptions."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if not ordered:
        return "unknown"
    rest = [f"{bits} in {number} {unit}{'s' if number > 1 else ''}" for bits, number in ordered[1:]]
    return "; ".join([f"{ordered[0][0]} bits", *rest])


def percent(share: float | None) -> str:
    """Of 1, as percent with two decimals."""
    return "–" if share is None else f"{100 * share:.2f}"


def metric_key(metric: str) -> str:
    """What JSON and rows call a metric."""
    return {"top-1": "top1", "top-5": "top5"}.get(metric, metric)


def with_unit(metric: str) -> str:
    """A metric as the head of a column, such as "top-1, %"."""
    unit = METRIC_UNITS.get(metric)
    return f"{metric}, {unit}" if unit else metric


def judged(value: float | None, metric: str) -> str:
    """A metric in its unit: a share as percent with two decimals, all else with four digits."""
    return percent(value) if METRIC_UNITS.get(metric) == "%" else number(value)


def in_unit(value: float | None, metric: str) -> str:
    """The same with its unit."""
    return f"{judged(value, metric)} {METRIC_UNITS.get(metric, '')}".rstrip()


def gain(difference: float, metric: str = "top-1") -> str:
    """A difference of a metric in its unit, with its sign."""
    shown = f"{100 * difference:+.2f}" if METRIC_UNITS.get(metric) == "%" else f"{difference:+.4g}"
    return shown.replace("-", "−")


def in_bytes(size: int | None) -> str:
    """Such as "95.4 kB"; a kilobyte has 1,000 bytes."""
    return "–" if size is None else decimal(size)


def count(number: int | None) -> str:
    """With separators of thousands."""
    return "–" if number is None else f"{number:,}"


def number(value: float | None, digits: int = 4) -> str:
    """With so many significant digits."""
    return "–" if value is None else f"{value:.{digits}g}"


def fixed(value: float | None, decimals: int) -> str:
    """With so many decimals."""
    return "–" if value is None else f"{value:.{decimals}f}".replace("-", "−")


def value(argument: Any) -> str:
    """An argument of a pass in a few words."""
    if isinstance(argument, Mapping):
        return ", ".join(f"{key} {value(item)}" for key, item in argument.items())
    if isinstance(argument, list | tuple):
        return ", ".join(map(value, argument))
    if isinstance(argument, bool) or argument is None:
        return {True: "yes", False: "no", None: "–"}[argument]
    return f"{argument:.6g}" if isinstance(argument, float) else str(argument)


FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    "percent": percent,
    "gain": gain,
    "judged": judged,
    "in_unit": in_unit,
    "bytes": in_bytes,
    "count": count,
    "number": number,
    "fixed": fixed,
    "value": value,
}
"""As the templates call them."""
