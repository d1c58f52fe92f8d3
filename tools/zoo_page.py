"""The page docs/zoo.md: its tables are made from artifacts/results/zoo.json, between two marks."""

import pstats
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from results import Row
from zoo_networks import ZOO

PAGE: Final = Path("docs/zoo.md")
BEGIN, END = "<!-- made by tools/zoo.py -->\n", "<!-- end of what is made -->\n"
STEPS: Final = ("inspect", "calibrate", "export qoperator", "export integer", "export qdq", "validate")
FUNCTIONS: Final = 8
"""How many of a profile are told."""
PROFILES: Final = "Slowest, profiled"
"""The title of their table."""


def write(tables: Mapping[str, Sequence[Row]], page: Path = PAGE) -> None:
    """Put the tables in their place."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(before + BEGIN + made(tables) + END + after, encoding="utf-8")


def made(tables: Mapping[str, Sequence[Row]]) -> str:
    """What stands between the marks: a table for each kind of file, then what was refused."""
    parts = []
    for title, rows in tables.items():
        if title == PROFILES:
            parts.append(f"\n### {title}\n\n{_profiles(rows)}\n")
            continue
        parts.append(f"\n### {title}\n\n{_sum(rows)}\n{_missing(rows)}\n{_table(rows)}\n")
        said = _refusals(rows)
        if said:
            parts.append("\nWhat was said:\n\n" + "".join(f"- {line}\n" for line in said))
    return "".join(parts) + "\n"


def total(row: Row) -> float:
    """Seconds of all steps."""
    return sum(float(row[f"{step} s"] or 0) for step in STEPS)


def line(row: Row) -> str:
    """What came of a file, for the terminal."""
    floats = f"float inside {row['float inside']} ({row['of']}), behind {row['float behind']} ({row['which are']})"
    told = f"{row['SNR dB']} dB, {floats}" if row["result"] == "through" else row["said"]
    steps = " ".join(f"{step.split()[-1]} {row[f'{step} s']:g}" for step in STEPS if row[f"{step} s"] is not None)
    return f"{row['result']} in {total(row):.1f} s, {row['CPU s']:.1f} s of computing ({steps}), {told}"


def heaviest(stats: pstats.Stats) -> list[dict[str, Any]]:
    """The functions of a profile in which most time was spent, not counting what they call."""
    timed = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:FUNCTIONS]  # type: ignore[attr-defined]
    rows = []
    for (file, _, function), (_, calls, own, cumulative, _) in timed:
        place = "/".join(Path(file).parts[-2:])
        rows.append(
            {
                "function": f"{place}:{function}",
                "calls": calls,
                "s": round(own, 2),
                "with calls s": round(cumulative, 2),
            }
        )
    return rows


def _sum(rows: Sequence[Row]) -> str:
    exported = [row for row in rows if row["result"] != "not exported"]
    through = [row for row in exported if row["result"] == "through"]
    whole = [row for row in through if not row["float inside"]]
    networks = {row["network"] for row in exported}
    failed = {row["network"] for row in exported if row["result"] != "through"}
    return (
        f"{len(through)} of {len(exported)} files go through, all files of {len(networks - failed)} of "
        f"{len(networks)} networks; in {len(whole)} files nothing is float between the first and the last integers."
    )


def _missing(rows: Sequence[Row]) -> str:
    """Networks of the zoo that have no row, where others have."""
    known = {str(row["network"]) for row in rows}
    missing = [name for name in ZOO.entries if name not in known]
    return f"\nNot run yet: {', '.join(missing)}.\n" if missing and known & set(ZOO.entries) else ""


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "| network | files | float inside | float behind | SNR dB | s | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(str(row["network"]) for row in rows):
        own = [row for row in rows if row["network"] == name and row["result"] != "not exported"]
        through = [row for row in own if row["result"] == "through"]
        cells = [name, f"{len(through)} of {len(own)}", _nodes(through, "float inside", "of")]
        cells += [
            _nodes(through, "float behind", "which are"),
            _span(through),
            f"{max(map(total, own), default=0):.1f}",
            f"{max((float(row['CPU s']) for row in own), default=0):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _nodes(rows: Sequence[Row], count: str, which: str) -> str:
    """Of the file that has most of them."""
    most = max(rows, key=lambda row: int(row[count] or 0), default=None)
    if most is None:
        return "-"
    return f"{most[count]}: {most[which]}" if most[count] else "0"


def _span(rows: Sequence[Row]) -> str:
    found = sorted(float(row["SNR dB"]) for row in rows if row["SNR dB"] is not None)
    if not found:
        return "-"
    low, high = f"{found[0]:.1f}", f"{found[-1]:.1f}"
    return low if low == high else f"{low} to {high}"


def _profiles(rows: Sequence[Row]) -> str:
    """A line for each network: the functions, most expensive first, with their seconds."""
    lines = ["Seconds under a profiler, in each function itself.", "", "| network | where |", "|---|---|"]
    for name in dict.fromkeys(str(row["network"]) for row in rows):
        told = ", ".join(f"`{row['function']}` {row['s']:g}" for row in rows if row["network"] == name)
        lines.append(f"| {name} | {told} |")
    return "\n".join(lines)


def _refusals(rows: Sequence[Row]) -> list[str]:
    """Each network's distinct lines, with the files they are of."""
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["result"] not in ("through", "not exported"):
            key = str(row["network"]), f"{row['result']}, {row['said']}".replace("|", "\\|")
            lines.setdefault(key, []).append(str(row["written by"]))
    return [f"{name} ({', '.join(files)}): {said}" for (name, said), files in lines.items()]
