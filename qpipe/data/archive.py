"""The arrays of an `.npz` file, each read only after its header was found to be possible.

A header is believed where the member has just as many bytes as it says: so no memory is asked for that the file can't
fill. Nothing is unpickled.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from qpipe.errors import DataError, QpipeError, one_line
from qpipe.processes import free_memory

_FREE_BYTES = 256 << 20
"""Arrays up to this size are never taken for a bomb, nor compared with the memory that is free."""
_BOMB = 300
"""How many times its compressed size a larger array may have: zeros have 1,000, images and features below 100."""
_MAGIC = b"\x93NUMPY"
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class NpzArchive(Mapping[str, npt.NDArray[Any]]):
    """Arrays by key, read when they are asked for. Raises DataError that names the file, and the key."""

    def __init__(self, path: Path) -> None:
        self._name = str(path)
        try:
            size = path.stat().st_size
            if not zipfile.is_zipfile(path):
                raise DataError(f"'{path}' is no .npz file, or a truncated one ({size} bytes)")
            self._zip = zipfile.ZipFile(path)
        except QpipeError:
            raise
        except Exception as error:  # a damaged directory leads zipfile to anything
            raise DataError(f"'{path}' can't be read: {one_line(error)}") from None
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            key = member.filename.removesuffix(".npy")
            if key in self._members:
                self._zip.close()
                raise DataError(f"data {self._name!r}: {key!r} is in the file twice, expected once")
            self._members[key] = member

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zip.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, key: object) -> bool:  # Mapping's own would read the array
        return key in self._members

    def __getitem__(self, key: str) -> npt.NDArray[Any]:
        member = self._members[key]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python's own about odd texts in a header
                with self._zip.open(member) as stream:
                    self._check(key, member, stream)
                with self._zip.open(member) as stream:
                    array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        except QpipeError:
            raise
        except Exception as error:
            # Truncated, corrupt, encrypted: zipfile, zlib, numpy and Python's parser of headers raise what they like.
            raise self._error(key, f"can't be read: {one_line(error)}") from None
        return array

    def _check(self, key: str, member: zipfile.ZipInfo, stream: IO[bytes]) -> None:
        """Raise DataError unless the header says what the member has, and it fits into memory."""
        if (start := stream.read(len(_MAGIC))) != _MAGIC:
            raise self._error(key, f"is no array: it begins with {start!r}, expected {_MAGIC!r}")
        version = tuple(stream.read(2))
        if version not in _READERS:
            raise self._error(key, f"has a header of version {version}, expected {' or '.join(map(str, _READERS))}")
        shape, _, dtype = _READERS[version](stream)
        if dtype.hasobject:
            raise self._error(key, "can't be read: it holds pickled Python objects, which qpipe never loads")
        if any(size < 0 for size in shape):
            raise self._error(key, f"can't be read: its shape is {list(shape)}")
        told, has = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if told != has:
            raise self._error(key, f"can't be read: {dtype} {list(shape)} has {told:,} bytes, but there are {has:,}")
        if told <= _FREE_BYTES:
            return
        if told > _BOMB * member.compress_size:
            times = told // max(member.compress_size, 1)
            raise self._error(key, f"can't be read: it unpacks to {times:,} times its size ({told:,} bytes)")
        if told > (free := free_memory()):
            raise self._error(
                key, f"can't be read: it has {told:,} bytes, more than the {free:,} of memory that are free"
            )

    def _error(self, key: str, problem: str) -> DataError:
        return DataError(f"data {self._name!r}: {key!r} {problem}")
