"""safetensors files written tensor by tensor, so that a table may be larger than memory.

The format wants its header first, and the header lists every tensor. The writer leaves room for a
header, streams the tensors behind it and fills the header in at the end, padded with spaces as the
format allows. When the room is used up, or a file is large enough, it goes on in a further one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from trainer.commit import Damage, FileFacts, facts_of, forget

ROOM = 1 << 16
"""Bytes left for the header of a streamed file: about 500 tensors."""
ENOUGH = 256 << 20
"""Bytes of tensors after which a further file is begun: a file's digest is of its first bytes, too,
which are written last, and so much can be read from the system's cache for it."""
PIECE = 4 << 20
"""Bytes that are brought to the disk at once beside training. What serves the disk takes turns with
training, too, where the machine is a virtual one: it did for 170 ms with 32 MiB of two ranks."""
BLOCK = 4 << 20
"""Bytes, about, of a page's rows that have a digest of their own; of one row where that is more."""
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class StreamedSafetensors:
    """Writes `stem.safetensors`, then `stem.1.safetensors`, ...; `close()` makes them durable.

    Args:
        room: bytes left for the header of each file.
        enough: bytes of tensors after which a further file is begun; None for one file.
        beside: a training goes on meanwhile. Each `PIECE` is then brought to the disk by the thread
            that saves: the system's own writers, which do not give way to a training as it does,
            would else have gigabytes to write. A file that is whole leaves the system's cache,
            which would else drop footage and rows for it.
    """

    def __init__(
        self, folder: Path, stem: str, *, room: int = ROOM, enough: int | None = ENOUGH,
        beside: bool = False,
    ) -> None:  # fmt: skip
        self._folder, self._stem, self._room, self._beside = folder, stem, room, beside
        self._enough = enough
        self._file: FileIO | None = None
        self._paths: list[Path] = []
        self._facts: dict[str, FileFacts] = {}
        self._header: list[str] = []
        self._header_bytes = self._offset = self._unsynced = 0
        self.index: dict[str, str] = {}
        """File of every tensor written."""

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Append one tensor; its bytes are handed to the system when this returns.

        Raises:
            OSError: the disk is full or failed.
            ValueError: a name used twice, or a dtype that the format does not know.
        """
        if name in self.index:
            raise ValueError(f"tensor {name} is written twice")
        if tensor.dtype not in DTYPES:
            raise ValueError(f"tensor {name} has dtype {tensor.dtype}, which is not stored")
        array = _as_bytes(tensor)
        if self._file is None or self._is_full(self._entry(name, tensor)):
            self._next_file()
        entry = self._entry(name, tensor)
        self._append(array.data)
        self._header.append(entry)
        self._header_bytes += len(entry) + 1
        self._offset += array.nbytes
        self.index[name] = self._paths[-1].name

    def close(self) -> dict[str, FileFacts]:
        """Finish and fsync; sizes and digests by file."""
        if not self._paths:
            self._next_file()
        self._finish_file()
        return self._facts

    def abandon(self) -> None:
        """Close the file as it is, after an error."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                self._file.close()
            self._file = None

    def _append(self, data: memoryview) -> None:
        while len(data):
            left = PIECE - self._unsynced
            part, data = data[:left], data[left:]
            _write_all(self._file, part)
            self._unsynced = (self._unsynced + len(part)) % PIECE
            if self._beside and not self._unsynced:
                assert self._file is not None
                os.fsync(self._file.fileno())

    def _is_full(self, entry: str) -> bool:
        """Whether a tensor with such an entry in the header goes to a further file."""
        large = self._enough is not None and self._offset >= self._enough
        return large or self._header_bytes + len(entry) > self._room

    def _entry(self, name: str, tensor: torch.Tensor) -> str:
        end = self._offset + tensor.numel() * tensor.element_size()
        facts = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [self._offset, end],
        }
        return f"{json.dumps(name)}:{json.dumps(facts, separators=(',', ':'))}"

    def _next_file(self) -> None:
        self._finish_file()
        part = f".{len(self._paths)}" if self._paths else ""
        path = self._folder / f"{self._stem}{part}.safetensors"
        self._file = path.open("xb", buffering=0)
        self._paths.append(path)
        self._header, self._header_bytes, self._offset = [], 2, 0
        self._unsynced = 0
        _write_all(self._file, self._room.to_bytes(8, "little") + b" " * self._room)

    def _finish_file(self) -> None:
        if self._file is None:
            return
        self._file.seek(8)
        _write_all(self._file, f"{{{','.join(self._header)}}}".encode())
        os.fsync(self._file.fileno())
        self._facts[self._paths[-1].name] = facts_of(self._paths[-1])
        if self._beside:
            forget(self._file.fileno())
        self._file.close()
        self._file = None


def serialise(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """safetensors bytes of a set of tensors: a copy, whatever happens to them afterwards."""
    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    )


def digests_of(page: torch.Tensor) -> str:
    """SHA-256 (hex) of each block of a page's rows, one behind the other."""
    blocks = -(-page.numel() * page.element_size() // BLOCK)
    size = block_rows(len(page), blocks)
    return "".join(digest_of(page[at : at + size]) for at in range(0, max(1, len(page)), size))


def block_rows(rows: int, blocks: int) -> int:
    """Rows of a block of a page, whose last block may have fewer. So a reader, who counts digests,
    need not know `BLOCK`."""
    return max(1, -(-rows // max(1, blocks)))


def digest_of(rows: torch.Tensor) -> str:
    """SHA-256 (hex) of rows' bytes."""
    return hashlib.sha256(_as_bytes(rows).data).hexdigest()


def check_header(path: Path, names: Iterable[str]) -> None:
    """Let the library validate a file's header, and see that it holds the tensors it should.

    Raises:
        Damage: not a safetensors file, or another set of tensors.
        OSError: it is not there, or the disk refuses to read it.
    """
    try:
        with safe_open(path, framework="pt") as file:
            missing = sorted(set(names) - set(file.keys()))
    except SafetensorError as error:
        raise Damage(f"{path.name}: {error}") from None
    if missing:
        raise Damage(f"{path.name} lacks tensor {missing[0]}")


def _as_bytes(tensor: torch.Tensor) -> np.ndarray:
    whole = tensor.detach().cpu().contiguous()
    # A tensor of one element may have any stride, and torch then refuses to view it as bytes.
    return whole.as_strided((whole.numel(),), (1,)).view(torch.uint8).numpy()


def _write_all(file: FileIO | None, data: bytes | memoryview) -> None:
    assert file is not None
    rest = memoryview(data).cast("B") if len(data) else memoryview(b"")
    while len(rest):
        rest = rest[file.write(rest) :]
