import pytest

from qpipe.runtime.cpu import Cpu, parse_cpuinfo, this_cpu

CPUINFO_X86 = """processor\t: 0
model name\t: Intel(R) Xeon(R) Gold 6248  CPU @ 2.50GHz
flags\t\t: fpu avx2 avx512bw avx512_vnni

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
CPUINFO_ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nHardware\t: A board\n"


def test_name_and_flags_of_the_first_core():
    name, flags = parse_cpuinfo(CPUINFO_X86)
    assert name == "Intel Xeon Gold 6248 CPU @ 2.50GHz"
    assert flags == {"fpu", "avx2", "avx512bw", "avx512_vnni"}


def test_arm():
    name, flags = parse_cpuinfo(CPUINFO_ARM)
    assert name == "A board"
    assert Cpu(name, 4, flags).has_vnni


def test_no_cpuinfo():
    assert parse_cpuinfo("") == ("", frozenset())


@pytest.mark.parametrize(
    ("flags", "vnni", "text"),
    [
        ({"avx2", "avx512bw", "avx512_vnni"}, True, "X, 2 cores, AVX512-VNNI"),
        ({"avx2", "avx_vnni"}, True, "X, 2 cores, AVX-VNNI"),
        ({"avx2", "avx512bw"}, False, "X, 2 cores, AVX512 without VNNI"),
        ({"avx2"}, False, "X, 2 cores, AVX2 without VNNI"),
        ({"asimd", "asimddp"}, True, "X, 2 cores, dotprod"),
        ({"asimd"}, False, "X, 2 cores, NEON without dotprod"),
        (set(), False, "X, 2 cores, unknown instruction set"),
    ],
)
def test_instruction_sets(flags, vnni, text):
    machine = Cpu("X", 2, frozenset(flags))
    assert machine.has_vnni is vnni
    assert machine.describe() == text


def test_one_core():
    assert Cpu("X", 1, frozenset({"avx2"})).describe() == "X, 1 core, AVX2 without VNNI"


def test_this_machine():
    assert this_cpu().describe().count("\n") == 0
    assert this_cpu().cores >= 1
