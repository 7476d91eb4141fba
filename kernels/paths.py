"""Where convolt keeps what it can make or download again."""

import os
from pathlib import Path


def cache_root() -> Path:
    """Return ``CONVOLT_CACHE_DIR``, else ``convolt`` in the user's cache."""
    if root := os.environ.get("CONVOLT_CACHE_DIR"):
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convolt"
