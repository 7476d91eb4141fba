"""Files that are replaced whole or not at all, also when the process is killed or power fails."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

StrPath = str | os.PathLike[str]


def write_atomically(path: StrPath, data: bytes) -> None:
    """Replace the file ``path`` by ``data``.

    Written to a temporary file beside it, flushed to the disk, renamed; then the folder is
    flushed. Raises OSError, with ``path`` in it, when a step fails: the file is then the old one
    (or, where only flushing the folder failed, the new one) and the temporary file is gone.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _flush_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def is_temporary(path: Path) -> bool:
    """Whether ``write_atomically`` made this file and has not finished."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_temporary_files(folder: StrPath) -> None:
    """Remove what ``write_atomically`` left in ``folder`` in processes that were killed."""
    for leftover in filter(is_temporary, Path(folder).iterdir()):
        leftover.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: StrPath) -> Iterator[None]:
    """Keep other processes out of ``folder``; the lock ends with the process, however it ends.

    Raises RuntimeError when another process holds it. Only on POSIX systems.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"{os.fspath(folder)}: another process is training here; wait for it to end or "
                "choose another output folder"
            ) from None
        yield
    finally:
        os.close(descriptor)


def canonical_json(value: Any) -> str:
    """The one JSON text of ``value``: keys sorted, no spaces, ASCII.

    Raises TypeError for what is not of JSON's types, ValueError for NaN and infinities.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def readable_json(value: Any) -> bytes:
    """JSON for people to read, in the given order of the keys; errors as ``canonical_json``."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()
