"""Values that go wrong: numbers at the edges, names that mean something elsewhere, damaged bytes and JSON."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any, Final

INTEGERS: Final = (
    0, 1, -1, 2, 3, 7, 8, 16, -2, 127, 128, 255, 256, 1000, 65536, 2**31 - 1, 2**31, -(2**31), 2**32, 2**62,
    2**63 - 1, -(2**63),
)  # fmt: skip
FLOATS: Final = (
    0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e-38, 1e-30, 1e-8, 1e30, 3.4e38, -3.4e38, 255.0, 6.0,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
STRINGS: Final = (
    "", " ", "x", "y", "logits", "x\n y", "nul\0nul", "[bold]markup[/bold]", "[/red]", "\x1b[31mred", "名前", "é\u202e",
    "a/b", "../outside", "/etc/hostname", "%s%n{0}", "a" * 5000, "-", "--help", "NaN", "null", "qpipe", "ai.onnx",
)  # fmt: skip


def integer(rng: Random) -> int:
    return rng.choice(INTEGERS) if rng.random() < 0.8 else rng.randint(-(2**63), 2**63 - 1)


def floating(rng: Random) -> float:
    return rng.choice(FLOATS) if rng.random() < 0.8 else rng.gauss(0, 1) * 10 ** rng.randint(-30, 30)


def text(rng: Random, known: Sequence[str] = ()) -> str:
    """One of the names that occur already, or one that no one expects."""
    return rng.choice(known) if known and rng.random() < 0.5 else rng.choice(STRINGS)


def damaged_bytes(rng: Random, content: bytes) -> bytes:
    """Truncated, with bytes flipped, cut out, repeated or set to one value."""
    content_ = bytearray(content)
    if not content_:
        return rng.randbytes(8)
    start = rng.randrange(len(content_))
    stop = min(len(content_), start + rng.choice((1, 2, 4, 16, 256)))
    match rng.randrange(6):
        case 0:
            return bytes(content_[:start])
        case 1:
            content_[start] ^= 1 << rng.randrange(8)
        case 2:
            content_[start:stop] = rng.randbytes(stop - start)
        case 3:
            content_[start:stop] = bytes([rng.choice((0, 0xFF, 0x7F, 0x80))]) * (stop - start)
        case 4:
            del content_[start:stop]
        case _:
            content_[start:start] = content_[start:stop] * rng.choice((1, 3))
    return bytes(content_)


def damaged_json(rng: Random, value: Any) -> str:
    """The text of a JSON value of which one part, at any depth, is dropped, replaced, renamed or repeated."""
    if rng.random() < 0.1:
        return rng.choice(("", "{", "[" * 100_000, "NaN", "1" * 5000, '"\\ud800"', "\ufeff{}", "{}", "[]", "0", "null"))
    if rng.random() < 0.1:
        return damaged_bytes(rng, json.dumps(value).encode()).decode("utf-8", "replace")
    value = json.loads(json.dumps(value))
    holder: list[Any] = [value]
    container, key = rng.choice(list(_places(holder)))
    _damage_at(rng, container, key)
    return json.dumps(holder[0] if holder else None)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every part as the container and the key that hold it."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *_places(value[key])]
    return found


def _damage_at(rng: Random, container: Any, key: Any) -> None:
    match rng.randrange(6):
        case 0:
            del container[key]
        case 1 if isinstance(container, dict):
            container[rng.choice(STRINGS)] = container.pop(key)
        case 1:
            container.insert(key, container[key])
        case 2:
            container[key] = [container[key]]
        case 3 if isinstance(container[key], int | float) and not isinstance(container[key], bool):
            container[key] = container[key] + rng.choice((-1, 1, 0.5, 1e30))
        case _:
            container[key] = json_value(rng)


def json_value(rng: Random) -> Any:
    """Of any JSON type."""
    made: tuple[Any, ...] = (
        None, True, False, integer(rng), floating(rng), rng.choice(STRINGS), [], {}, [integer(rng)], [[]],
        {"pass": "x"}, str(integer(rng)), [floating(rng)] * 3,
    )  # fmt: skip
    return rng.choice(made)
