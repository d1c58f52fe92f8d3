"""Damage to a protobuf message by its descriptor: any field of any message in it may get any value."""

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from fuzzing.values import damaged_bytes, floating, integer, text

# What a number's type can hold; a value beyond would be refused by protobuf itself.
RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
RAW_WEIGHT = 0.2
"""Bytes of tensors are most of a file and the least of its structure."""


def messages(message: Message) -> Iterator[Message]:
    """The message and all that it holds, itself first."""
    yield message
    for field, value in message.ListFields():
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            for child in value if is_repeated(field) else [value]:
                yield from messages(child)


def is_repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def damage(rng: Random, root: Message, donors: Sequence[Message] = ()) -> str:
    """Change one field somewhere in `root`, in place; what was done, in words.

    donors: other messages, whose parts may stand in for those of the same type.
    """
    for _ in range(100):
        by_type: dict[str, list[Message]] = {}
        for message in messages(root):
            by_type.setdefault(message.DESCRIPTOR.name, []).append(message)
        # First the type: there are far more tensors' dimensions than functions.
        message = rng.choice(by_type[rng.choice(sorted(by_type))])
        set_fields = [field for field, _ in message.ListFields()]
        fields = set_fields if set_fields and rng.random() < 0.8 else list(message.DESCRIPTOR.fields)
        field = rng.choice(fields)
        if field.type == FieldDescriptor.TYPE_BYTES and rng.random() > RAW_WEIGHT:
            continue
        done = _damage_field(rng, root, message, field, donors)
        if done:
            return f"{message.DESCRIPTOR.name}.{field.name}: {done}"
    return "nothing"


def _damage_field(rng: Random, root: Message, message: Message, field: Any, donors: Sequence[Message]) -> str:
    if is_repeated(field):
        return _damage_repeated(rng, root, message, field, donors)
    if message.HasField(field.name) and rng.random() < 0.2:
        message.ClearField(field.name)
        return "cleared"
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        other = _other(rng, root, field.message_type, donors)
        if other is None:
            getattr(message, field.name).SetInParent()
            return "made empty"
        getattr(message, field.name).CopyFrom(_copy(other))
        return "replaced by another of its type"
    value = scalar(rng, field, getattr(message, field.name), _names(root))
    setattr(message, field.name, value)
    return f"set to {value!r:.60}"


def _damage_repeated(rng: Random, root: Message, message: Message, field: Any, donors: Sequence[Message]) -> str:
    values = getattr(message, field.name)
    is_message = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
    index = rng.randrange(len(values)) if values else 0
    actions: list[Callable[[], str]] = [lambda: _insert(rng, root, values, field, donors)]
    if values:
        actions += [lambda: _delete(values, index), lambda: _repeat(rng, values, index, is_message)]
        if not is_message:
            actions += [lambda: _set(rng, root, values, index, field)] * 3
    if len(values) > 1:
        actions.append(lambda: _reorder(rng, values))
    return rng.choice(actions)()


def _insert(rng: Random, root: Message, values: Any, field: Any, donors: Sequence[Message]) -> str:
    if field.cpp_type != FieldDescriptor.CPPTYPE_MESSAGE:
        value = scalar(rng, field, field.default_value or None, _names(root))
        values.append(value)
        return f"{value!r:.60} added"
    other = _other(rng, root, field.message_type, donors)
    added = values.add()
    if other is not None:
        added.CopyFrom(_copy(other))
    return "one added" if other is not None else "an empty one added"


def _delete(values: Any, index: int) -> str:
    del values[index]
    return f"element {index} dropped"


def _repeat(rng: Random, values: Any, index: int, is_message: bool) -> str:
    times = rng.choice((1, 1, 1, 20))
    for _ in range(times):
        values.add().CopyFrom(values[index]) if is_message else values.append(values[index])
    return f"element {index} repeated {times} times"


def _set(rng: Random, root: Message, values: Any, index: int, field: Any) -> str:
    values[index] = scalar(rng, field, values[index], _names(root))
    return f"element {index} set to {values[index]!r:.60}"


def _reorder(rng: Random, values: Any) -> str:
    order = list(values)
    rng.shuffle(order)
    copies = [_copy(value) if isinstance(value, Message) else value for value in order]
    del values[:]
    values.extend(copies)
    return "reordered"


def _copy(message: Message) -> Message:
    """Apart from what it is part of: a message that is copied into itself would be endless."""
    return type(message).FromString(message.SerializeToString())


def scalar(rng: Random, field: Any, now: Any, names: Sequence[str]) -> Any:
    """A value that the field can hold, most often a bad one."""
    if field.cpp_type in RANGES:
        low, high = RANGES[field.cpp_type]
        near = (now or 0) + rng.choice((-1, 1))
        value = near if rng.random() < 0.3 else rng.randint(0, 30) if rng.random() < 0.3 else integer(rng)
        return min(max(value, low), high)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice([value.number for value in field.enum_type.values])
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return floating(rng)
        case FieldDescriptor.CPPTYPE_BOOL:
            return not now
    if field.type == FieldDescriptor.TYPE_BYTES:
        return damaged_bytes(rng, now or b"")
    return text(rng, names)


def _names(root: Message) -> list[str]:
    """All strings of the message, of which most are names."""
    found = {""}
    for message in messages(root):
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_STRING:
                found.update(value if is_repeated(field) else [value])
    return sorted(found)


def _other(rng: Random, root: Message, kind: Any, donors: Sequence[Message]) -> Message | None:
    pool = [part for part in messages(rng.choice([root, *donors])) if part.DESCRIPTOR is kind]
    return rng.choice(pool) if pool else None
