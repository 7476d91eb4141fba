"""Where convolt keeps what it can make or download again, and that it is found whole or not."""

import os
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

_DIGEST_BYTES = sha256().digest_size


def cache_root() -> Path:
    """Return ``CONVOLT_CACHE_DIR``, else ``convolt`` in the user's cache."""
    if root := os.environ.get("CONVOLT_CACHE_DIR"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convolt"


def keep(path: Path, data: bytes) -> None:
    """Write ``data`` under a name of its own, then rename it: no reader sees half of it.

    Args:
        path: In a folder that exists.
        data: Anything.

    Raises:
        OSError: It cannot be written; nothing is left behind.
    """
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as stream:
            temporary = stream.name
            stream.write(sha256(data).digest() + data)
        os.replace(temporary, path)
    except BaseException:
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)
        raise


def kept(path: Path) -> bytes | None:
    """Return what ``keep`` wrote; None where there is nothing, or it is not whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, data = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return data if sha256(data).digest() == digest else None
