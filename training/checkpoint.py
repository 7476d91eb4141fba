"""Checkpoints: named arrays and JSON in one safetensors file, verified when it is read.

The file has exactly one metadata entry, because safetensors writes several in random order:
canonical JSON with the format's version, the caller's ``meta``, and a SHA-256 over meta and over
the name, dtype, shape and bytes of every array. The same contents give the same bytes.
Nothing is ever unpickled. Format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np

from .files import StrPath, canonical_json, write_atomically

VERSION = 1
ENTRY = "convolt"


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message names the file and says why."""


def save(path: StrPath, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
    """Replace the checkpoint ``path``, or leave it as it is and raise.

    Args:
        path: The file, in a folder that exists.
        arrays: Names to arrays of bool, integers or floats. They are written in C order of the
            shape they have, whatever their memory order.
        meta: JSON's types, no NaN or infinity.

    Raises:
        CheckpointError: The file cannot be written, e.g. because the disk is full.
        TypeError: An array or ``meta`` holds what the format cannot.
        ValueError: ``meta`` holds NaN or an infinity.
    """
    from safetensors.numpy import save as to_bytes

    # Not np.ascontiguousarray, which makes 0-d arrays 1-d.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.itemsize > 8 or not array.dtype.isnative:
            raise TypeError(f"checkpoint: {name} has dtype {array.dtype}, which cannot be saved")
    entry = {"version": VERSION, "meta": meta, "sha256": _digest(arrays, meta)}
    data = to_bytes(arrays, {ENTRY: canonical_json(entry)})
    try:
        write_atomically(path, data)
    except OSError as error:
        raise CheckpointError(
            f"{os.fspath(path)}: cannot save this checkpoint: {error.strerror or error} "
            f"({len(data) / 1e6:.1f} MB were to be written); what was there before is not damaged"
        ) from error


def load(path: StrPath) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the meta of the checkpoint ``path``.

    Raises:
        CheckpointError: There is no such file, it is not a checkpoint of convolt or of another
            version, or its contents are not those that were saved.
    """
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    if not os.path.isfile(name):
        raise CheckpointError(f"{name}: there is no such checkpoint")
    try:
        with safe_open(name, framework="numpy") as file:
            entry = _entry(file.metadata(), name)
            arrays = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except OSError as error:
        raise CheckpointError(f"{name}: cannot read this checkpoint: {error}") from error
    except SafetensorError as error:
        raise CheckpointError(
            f"{name}: not a safetensors file, or a damaged one: {error}"
        ) from error
    if not _matches(entry, arrays):
        raise CheckpointError(
            f"{name}: the contents do not match the checksum: the file was damaged or changed "
            "after it was saved"
        )
    return arrays, entry["meta"]


def _entry(metadata: dict[str, str] | None, name: str) -> dict[str, Any]:
    if metadata is None or metadata.keys() != {ENTRY}:
        raise CheckpointError(
            f"{name}: a safetensors file, but not a checkpoint of convolt: its metadata must be "
            f"the one entry {ENTRY!r}, it is {sorted(metadata or ())}"
        )
    try:
        entry = json.loads(metadata[ENTRY])
        version, keys = entry["version"], entry.keys()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{name}: the metadata are damaged: {error!r}") from error
    if version != VERSION:
        raise CheckpointError(
            f"{name}: a checkpoint of version {version!r}; this convolt reads version {VERSION}"
        )
    if keys != {"version", "meta", "sha256"}:
        raise CheckpointError(f"{name}: the metadata are damaged: they hold {sorted(keys)}")
    return entry


def _matches(entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> bool:
    try:
        return entry["sha256"] == _digest(arrays, entry["meta"])
    except (ValueError, RecursionError):  # meta that ``save`` would not have written
        return False


def _digest(arrays: Mapping[str, np.ndarray], meta: Any) -> str:
    """SHA-256 over everything, in hexadecimal; the arrays are C-contiguous."""
    names = sorted(arrays)
    facts = [[name, arrays[name].dtype.str, arrays[name].shape] for name in names]
    digest = sha256(canonical_json({"version": VERSION, "meta": meta, "arrays": facts}).encode())
    for name in names:
        digest.update(arrays[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
