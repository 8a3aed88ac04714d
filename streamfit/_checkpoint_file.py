"""The checkpoint file: arrays and JSON in one safetensors file, every bit of it under a SHA-256.

A file is plain safetensors, so other tools can look into it. Arrays are its tensors; all the
rest is one JSON text in the header's `__metadata__`::

    "__metadata__": {"format": "2", "sha256": "<64 hex digits>", "streamfit": "<JSON>"}

The digest covers the whole file, header included, with its own 64 digits read as zeros. Every
later format keeps this rule and the place of the format number, so that any version can tell a
newer file from a damaged one. A checksum is no signature: it finds damage, not forgery. A forged
file still cannot run code, nor make its reader allocate more than the file's own size.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from streamfit._durable import open_regular
from streamfit.errors import CheckpointCorruptError, CheckpointError, CheckpointMismatchError
from streamfit.types import Position, StateDict

__all__ = ["FORMAT", "Checkpoint", "encode", "read"]

FORMAT = 2
"""The newest file format that this version reads, and the one that it writes; 1 had no epoch."""

_ZEROS = b"0" * 64
# Quotes inside a JSON string are escaped, so only a real member of the header can match: neither
# the JSON text within "streamfit" nor the name of a tensor can look like this.
_DIGEST = re.compile(rb'(?<=[{,])"sha256":"([0-9a-f]{64})"(?=[,}])')
_MAX_HEADER = 100_000_000  # safetensors' own limit
_SCALARS = frozenset({type(None), bool, int, float, str})
_PARTS = ("model", "config", "position", "trainer")
_STAMPS = ("number", "created", "owner_epoch")

# What parsing raises on bytes that mean nothing.
_DAMAGE = (
    SafetensorError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

_Header: TypeAlias = dict[str, dict[str, Any]]


@dataclass(eq=False)
class Checkpoint:
    """Everything that a run needs to go on as if it had never stopped.

    Parameters
    ----------
    model
        Parameters, optimizer state, pending sums, counters, feature names: a flat dict of
        name to array or JSON-safe value.
    config
        The model's configuration, JSON-safe, to be compared before the state is believed.
    position
        Where the source stood. It lives in the same file as the weights, so that the two
        can only move together.
    trainer
        Epoch, counts, progressive loss and the like, JSON-safe.
    number
        Sequence number of the file; 0 until saved.
    created
        ISO 8601 time (UTC) of the save; empty until saved.
    owner_epoch
        Counts the trainers that have owned the directory: tells a checkpoint of the present owner
        from one of a process that was taken over.

    Notes
    -----
    JSON-safe means None, bool, int, float, str, and lists and str-keyed dicts of these. What
    JSON would silently turn into something else (tuples, keys that are not strings, NumPy
    scalars) is refused at save. NaN and infinities round trip; the order of a dict's keys is
    not kept.
    """

    model: StateDict
    config: dict[str, Any]
    position: Position
    trainer: dict[str, Any]
    number: int = 0
    created: str = ""
    owner_epoch: int = 0


def encode(checkpoint: Checkpoint) -> bytes:
    """Turn a checkpoint into the bytes of its file.

    Raises
    ------
    CheckpointError
        When a value could not be read back exactly; the message names it.
    """
    arrays = {k: v for k, v in checkpoint.model.items() if isinstance(v, np.ndarray)}
    parts = {part: getattr(checkpoint, part) for part in _PARTS}
    parts["model"] = {k: v for k, v in checkpoint.model.items() if k not in arrays}
    try:
        for part, value in parts.items():
            _refuse_unsafe(value, part)
        parts |= {name: getattr(checkpoint, name) for name in _STAMPS}
        text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        metadata = {"format": str(FORMAT), "sha256": _ZEROS.decode(), "streamfit": text}
        blob = save_tensors({k: _storable(k, v) for k, v in arrays.items()}, metadata)
    except (SafetensorError, ValueError, RecursionError) as error:
        # An integer of thousands of digits, a circular list, a header above the limit.
        raise CheckpointError(f"this state cannot be saved: {error}") from error
    start, stop = _digest_span(blob[: 8 + int.from_bytes(blob[:8], "little")])
    digest = hashlib.sha256(blob).hexdigest().encode()
    return b"".join((memoryview(blob)[:start], digest, memoryview(blob)[stop:]))


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read one checkpoint file, believing nothing before its checksum was verified.

    Raises
    ------
    CheckpointCorruptError
        When any bit of the file is not what was written.
    CheckpointMismatchError
        When the file is whole, but of a format that this version does not know.
    CheckpointError
        When the file cannot be opened.
    """
    path = Path(path)
    try:
        blob, header = _verified(path)
        metadata = header["__metadata__"]
        if (found := int(metadata["format"])) > FORMAT:
            raise CheckpointMismatchError(
                f"{path} has checkpoint format {found}; this streamfit knows up to {FORMAT}. "
                "Upgrade streamfit to the version that wrote it."
            )
        checkpoint = Checkpoint(**json.loads(metadata["streamfit"]))
        _refuse_strange(checkpoint)
        checkpoint.model |= load_tensors(blob)
        return checkpoint
    except OSError as error:
        # A sector that cannot be read is damage; a missing permission is not.
        kind = CheckpointCorruptError if error.errno == errno.EIO else CheckpointError
        raise kind(f"cannot read checkpoint {path}: {error}") from error
    except _DAMAGE as error:
        raise CheckpointCorruptError(f"checkpoint {path} is corrupt: {error}") from error


def _verified(path: Path) -> tuple[bytes, _Header]:
    """Bytes and header of a file whose sizes and checksum are right."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        body = 8 + int.from_bytes(file.read(8), "little")
        if body > min(size, _MAX_HEADER):
            raise ValueError(f"its header claims {body - 8} bytes, the file has {size}")
        file.seek(0)
        head = file.read(body)
        start, stop = _digest_span(head)
        header: _Header = json.loads(head[8:])
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        declared = body + max((entry["data_offsets"][1] for entry in tensors), default=0)
        if declared != size:
            raise ValueError(f"its header declares {declared} bytes, the file has {size}")
        blob = head + file.read(size - body)
    view = memoryview(blob)
    checksum = hashlib.sha256(view[:start])
    checksum.update(_ZEROS)
    checksum.update(view[stop:])
    if checksum.hexdigest().encode() != view[start:stop]:
        raise ValueError("its SHA-256 does not match")
    return blob, header


def _refuse_strange(checkpoint: Checkpoint) -> None:
    """Raise ValueError unless every part is of its type: the file may be anyone's."""
    for part in _PARTS:
        if type(getattr(checkpoint, part)) is not dict:
            raise ValueError(f"its {part} is no object")
    if not all(type(offset) is int for offset in checkpoint.position.values()):
        raise ValueError("its position is not made of offsets")
    stamps = (checkpoint.number, checkpoint.owner_epoch, checkpoint.created)
    if tuple(map(type, stamps)) != (int, int, str) or min(stamps[:2]) < 0:
        raise ValueError(f"its stamps are {stamps!r:.80}")


def _digest_span(head: bytes) -> tuple[int, int]:
    """Start and stop of the digest's 64 digits."""
    matches = list(_DIGEST.finditer(head))
    if len(matches) != 1:
        raise ValueError("its header has no SHA-256, so it is no streamfit checkpoint")
    return matches[0].span(1)


def _storable(key: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return `array` the way safetensors wants it: C order, little-endian."""
    dtype = array.dtype
    if type(array) is not np.ndarray or dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise CheckpointError(
            f"model[{key!r}] cannot be saved: {type(array).__name__} of dtype {dtype}; "
            "a checkpoint holds plain arrays of bool, int and float up to 64 bits"
        )
    if not isinstance(key, str) or key == "__metadata__":
        raise CheckpointError(f"model[{key!r}] cannot be saved: it is no name for an array")
    # safetensors copies memory as it lies, whatever the strides. Not np.ascontiguousarray,
    # which would make a 0-d array 1-d.
    return np.asarray(array, dtype=dtype.newbyteorder("<"), order="C")


def _refuse_unsafe(value: object, where: str) -> None:
    """Raise CheckpointError, naming the place, unless JSON gives `value` back unchanged."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise CheckpointError(f"{where} cannot be saved: its key {key!r} is not a string")
            if type(item) not in _SCALARS:
                _refuse_unsafe(item, f"{where}[{key!r}]")
    elif isinstance(value, list):
        # A list of a million feature names is told to be harmless at the speed of C.
        if not _SCALARS.issuperset(map(type, value)):
            for i, item in enumerate(value):
                _refuse_unsafe(item, f"{where}[{i}]")
    elif not isinstance(value, bool | int | float | str | None):
        raise CheckpointError(
            f"{where} cannot be saved: {type(value).__name__} is not JSON-safe; a checkpoint "
            "holds None, bool, int, float, str, and lists and str-keyed dicts of these"
        )
