"""Modules made of numbered modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, overload

from ..engine import Tensor
from .module import Module


class _Numbered(Module):
    """What ``Sequential`` and ``ModuleList`` share: they behave like a list of modules."""

    def _names(self) -> list[str]:
        return [name for name, _ in self._own("module")]

    def __len__(self) -> int:
        return len(self._names())

    def __iter__(self) -> Iterator[Any]:
        return iter([module for _, module in self._own("module")])

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._names()[index], module)

    def __delitem__(self, index: int | slice) -> None:
        modules = list(self)
        del modules[index]
        self._number(modules)

    def append(self, module: Module) -> Self:
        """Add a module at the end; return self."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end; return self."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Put a module before the one at ``index``, number all anew, and return self."""
        modules = list(self)
        modules.insert(index, module)
        self._number(modules)
        return self

    def _number(self, modules: list[Module]) -> None:
        for name in self._names():
            delattr(self, name)
        self.extend(modules)


class Sequential(_Numbered):
    """Call one module after the other.

    Args:
        args: Modules, named "0", "1", ...; or one mapping from names to modules.

    Raises:
        TypeError: One of them is no Module.
        KeyError: A name holds a dot or is taken by a method.
    """

    def __init__(self, *args: Module | Mapping[str, Module]) -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], Mapping):
            named = args[0]
        else:
            named = {str(i): module for i, module in enumerate(args)}
        for name, module in named.items():
            self.add_module(name, module)  # pyright: ignore[reportArgumentType]

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Return a module, or a Sequential of the same modules under the same names."""
        names = self._names()[index]
        if isinstance(names, str):
            return vars(self)[names]
        return Sequential({name: vars(self)[name] for name in names})

    def forward(self, input: Tensor) -> Tensor:
        """Pass ``input`` through all modules."""
        for module in self:
            input = module(input)
        return input


class ModuleList(_Numbered):
    """A list whose modules are registered; how they are called is up to the owner.

    Raises:
        TypeError: One of them is no Module.
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Return a module, or a ModuleList of some, numbered from 0."""
        modules = list(self)[index]
        return ModuleList(modules) if isinstance(modules, list) else modules
