"""The choice of the backend by ``--backend`` or ``CONVOLT_BACKEND``."""

from __future__ import annotations

import logging
import os
import sys


def asked_backend(option: str | None) -> str | None:
    """The backend that ``--backend`` or else ``CONVOLT_BACKEND`` names, if either does."""
    return option or os.environ.get("CONVOLT_BACKEND") or None


def choose_backend(option: str | None) -> str:
    """Use the backend ``option``, else that of ``CONVOLT_BACKEND``, else the default one.

    Raises ValueError, which lists the backends and why each is not usable, where it is none.
    """
    from ..kernels.backend import current_backend, use_backend

    try:
        if option is not None:
            use_backend(option)
        return current_backend()
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def explain_choices() -> None:
    """Say on standard error which CUDA kernels each convolution gets, when it is first met."""
    logger = logging.getLogger("convolt.choice")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler())


def announce_compilation() -> None:
    """Say on standard error that a first run compiles, where this backend will."""
    from ..kernels.backend import current_backend
    from ..kernels.paths import cache_root

    backend = current_backend()
    if backend == "numba":
        from ..kernels.cpu import cache

        is_cold, cache.announced = cache.is_cold, True  # here, in the command's own words
    elif backend == "emulator":
        from ..kernels.emulator.build import is_cold
    else:
        return
    if is_cold():
        print(
            "compiling the kernels, which takes a while this first time; they are kept in "
            f"{cache_root()} and later runs start at once",
            file=sys.stderr,
            flush=True,
        )
