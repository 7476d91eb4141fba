"""A plugin of pytest for slow tools: ``-p bench.one_variant`` runs one variant of each test.

It also switches CuPy's memory pool off, so that each array is an allocation of its own and a tool
sees an access one byte past its end.
"""

from typing import Any

import pytest


def pytest_configure() -> None:
    """Let CuPy ask the driver for the memory of every array."""
    import cupy

    cupy.cuda.set_allocator(None)


@pytest.hookimpl(trylast=True)  # after -k and -m
def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Keep the first item of each test function."""
    first: dict[str, Any] = {}
    for item in items:
        first.setdefault(item.nodeid.partition("[")[0], item)
    kept = set(first.values())
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]
