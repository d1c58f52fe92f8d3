"""Which CPU this is, and whether its 8-bit products are exact: what a latency or an accuracy was measured on."""

import platform
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from qpipe.processes import usable_cores

# Flags as Linux and macOS spell them, the first that is found names the instruction set. True: products accumulate in
# int32 at once; False: pairs go through a saturating int16 ("Pairs" in docs/numbers.md).
_INSTRUCTION_SETS: Final = (
    ("avx512_vnni", "AVX512-VNNI", True),
    ("avx512vnni", "AVX512-VNNI", True),
    ("avx_vnni", "AVX-VNNI", True),
    ("asimddp", "dotprod", True),
    ("feat_dotprod", "dotprod", True),
    ("avx512bw", "AVX512 without VNNI", False),
    ("avx2", "AVX2 without VNNI", False),
    ("asimd", "NEON without dotprod", False),
)


@dataclass(frozen=True)
class Cpu:
    """name: as the maker writes it; cores: that this process may use; flags: of the CPU, in lower case."""

    name: str
    cores: int
    flags: frozenset[str]

    @property
    def has_vnni(self) -> bool:
        """Whether it multiplies and adds four 8-bit pairs into int32 in one instruction, without saturation.

        As AVX512-VNNI, AVX-VNNI and ARM's dot products do.
        """
        return any(exact for flag, _, exact in _INSTRUCTION_SETS if flag in self.flags)

    @property
    def instruction_set(self) -> str:
        """The best of its instruction sets for 8-bit products, by name."""
        return next((name for flag, name, _ in _INSTRUCTION_SETS if flag in self.flags), "unknown instruction set")

    def describe(self) -> str:
        """One line: "AMD EPYC 9B14, 2 cores, AVX512-VNNI"."""
        return f"{self.name}, {self.cores} core{'s' if self.cores > 1 else ''}, {self.instruction_set}"


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Name and flags from the text of Linux's /proc/cpuinfo, of its first core; the name is empty if there is none."""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            entries.setdefault(key.strip().lower(), value.strip())
    flags = entries.get("flags", entries.get("features", ""))
    name = entries.get("model name", entries.get("hardware", ""))
    return _plain(name), frozenset(flags.lower().split())


@cache
def this_cpu() -> Cpu:
    """The CPU that this process runs on."""
    name, flags = "", frozenset[str]()
    if platform.system() == "Linux":
        name, flags = parse_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    elif platform.system() == "Darwin":
        name = _plain(_sysctl("machdep.cpu.brand_string"))
        flags = frozenset(_sysctl("machdep.cpu.leaf7_features").lower().split())
        if _sysctl("hw.optional.arm.FEAT_DotProd") == "1":
            flags |= {"feat_dotprod"}
    return Cpu(name or _plain(platform.processor()) or platform.machine() or "unknown CPU", usable_cores(), flags)


def _sysctl(key: str) -> str:
    """What macOS says of its machine under this key; nothing where it has none."""
    result = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


def _plain(name: str) -> str:
    """The name without trade marks and doubled spaces."""
    return " ".join(re.sub(r"\((R|TM)\)", " ", name, flags=re.IGNORECASE).split())
