"""Module: a layer, or a net of layers, that owns parameters, buffers and submodules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from ..engine import Parameter, Tensor
from ..kernels.arrays import is_floating
from .checks import float_dtype

Kind = Literal["parameter", "buffer", "module"]
_KIND_OF_VALUE = {"parameter": "Parameter", "buffer": "Tensor", "module": "Module"}


class LoadedKeys(NamedTuple):
    """The keys that ``load_state_dict(strict=False)`` passed over."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class RemovableHandle:
    """What registering a hook returns."""

    def __init__(self, hooks: dict[object, Any], hook: Any) -> None:
        self._hooks, self._key = hooks, object()
        hooks[self._key] = hook

    def remove(self) -> None:
        """Take the hook out; a second call does nothing."""
        self._hooks.pop(self._key, None)


class Module:
    """Base of every layer and net; subclasses define ``forward``.

    Parameters, buffers and submodules are ordinary attributes. Assigning a ``Parameter`` or a
    ``Module`` registers its name, ``register_buffer`` registers a buffer: a Tensor that belongs
    to the state but is not trained.

    Errors are PyTorch's: AttributeError when a member is assigned before ``super().__init__()``,
    TypeError when the name of a member is assigned something of another kind, KeyError for a
    name that is empty, holds a dot, or is taken.
    """

    training: bool

    def __init__(self) -> None:
        self._members: dict[str, Kind] = {}  # in order of registration; the values are attributes
        self._not_saved: set[str] = set()  # buffers that are not persistent
        self._forward_pre_hooks: dict[object, Callable[..., Any]] = {}
        self._forward_hooks: dict[object, Callable[..., Any]] = {}
        self.training = True

    # Members

    def __setattr__(self, name: str, value: Any) -> None:
        kind = _kind(value)
        was = vars(self).get("_members", {}).get(name)
        if kind is not None and kind != was and was != "parameter":
            vars(self).pop(name, None)
            self._forget(name)
            self._register(kind, name, value)
            return
        accepted = kind == was or value is None or (was == "buffer" and isinstance(value, Tensor))
        if was is not None and not accepted:
            raise TypeError(
                f"{type(self).__name__}: {name!r} is a {was}: it can be assigned a "
                f"{_KIND_OF_VALUE[was]} or None, not {type(value).__name__}; "
                f"del it first to use the name for something else"
            )
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        object.__delattr__(self, name)
        self._forget(name)

    def _forget(self, name: str) -> None:
        if "_members" in vars(self):
            self._members.pop(name, None)
            self._not_saved.discard(name)

    def _register(self, kind: Kind, name: str, value: Any) -> None:
        layer = type(self).__name__
        if "_members" not in vars(self):
            raise AttributeError(
                f"{layer}: call super().__init__() before assigning the {kind} {name!r}"
            )
        if not isinstance(name, str):
            raise TypeError(f"{layer}: the name of a {kind} must be a str, got {name!r}")
        if not name or "." in name:
            raise KeyError(f"{layer}: the name of a {kind} cannot be empty or hold a dot: {name!r}")
        if hasattr(self, name) and self._members.get(name) != kind:
            raise KeyError(f"{layer}: there is an attribute {name!r} already")
        self._members[name] = kind
        object.__setattr__(self, name, value)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter; None keeps the name, as of a bias that is left out.

        Raises:
            TypeError: ``param`` is neither a Parameter nor None.
            KeyError: The name is empty, holds a dot, or is taken.
        """
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"{type(self).__name__}: {name!r} must be a Parameter or None, got "
                f"{type(param).__name__}; wrap it, Parameter(tensor)"
            )
        self._register("parameter", name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a buffer; it is part of ``state_dict`` when ``persistent``.

        Raises:
            TypeError: ``tensor`` is neither a Tensor nor None.
            KeyError: The name is empty, holds a dot, or is taken.
        """
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"{type(self).__name__}: buffer {name!r} must be a Tensor or None, got "
                f"{type(tensor).__name__}"
            )
        self._register("buffer", name, tensor)
        (self._not_saved.discard if persistent else self._not_saved.add)(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """Add a submodule, also under a name that is no identifier, like "0".

        Raises:
            TypeError: ``module`` is neither a Module nor None.
            KeyError: The name is empty, holds a dot, or is taken.
        """
        if module is not None and not isinstance(module, Module):
            raise TypeError(
                f"{type(self).__name__}: {name!r} must be a Module, got {type(module).__name__}"
            )
        self._register("module", name, module)

    register_module = add_module

    def _own(self, kind: Kind) -> Iterator[tuple[str, Any]]:
        """Yield (name, value) of this module's own members of one kind, without the Nones."""
        for name, of_kind in tuple(self._members.items()):
            value = vars(self)[name]
            if of_kind == kind and value is not None:
                yield name, value

    # Walks

    def named_modules(
        self, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """Yield (path, module) of this module and of all below it; a shared one once."""
        seen: set[int] = set()

        def walk(path: str, module: Module) -> Iterator[tuple[str, Module]]:
            if remove_duplicate and id(module) in seen:
                return
            seen.add(id(module))
            yield path, module
            for name, child in module._own("module"):
                yield from walk(_join(path, name), child)

        return walk(prefix, self)

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it; a shared one once."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) of the direct submodules; a shared one once."""
        return _unique(self._own("module"))

    def children(self) -> Iterator[Module]:
        """Yield the direct submodules; a shared one once."""
        return (module for _, module in self.named_children())

    def _named_tensors(
        self, kind: Kind, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        walk = self.named_modules(prefix, remove_duplicate) if recurse else [(prefix, self)]
        named = (
            (_join(path, name), tensor)
            for path, module in walk
            for name, tensor in module._own(kind)
        )
        return _unique(named) if remove_duplicate else named

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Yield (path, parameter), of the submodules too if ``recurse``; a shared one once."""
        return self._named_tensors("parameter", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Yield the parameters; a shared one once."""
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (path, buffer), of the submodules too if ``recurse``; a shared one once."""
        return self._named_tensors("buffer", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Yield the buffers; a shared one once."""
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def apply(self, fn: Callable[[Module], Any]) -> Self:
        """Call ``fn`` on every module below this one, then on this one; return self."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    # State

    def _state(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by path, a shared one under each of its paths."""
        return {
            _join(path, name): tensor
            for path, module in self.named_modules(remove_duplicate=False)
            for name, tensor in (*module._own("parameter"), *module._own("buffer"))
            if name not in module._not_saved
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Return parameters and persistent buffers by path: PyTorch's keys, order and shapes.

        The Tensors are detached and share the memory that the module has now: copy them to keep
        them. Those taken before an optimizer is made do not follow the parameters any more when
        it has moved them into its flat buffers; nor do those taken before ``to``.
        """
        return {name: tensor.detach() for name, tensor in self._state().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadedKeys:
        """Copy values into the memory of the parameters and buffers, converted to their dtype.

        Args:
            state_dict: Tensors or arrays by path, as from ``state_dict``.
            strict: Whether missing and unexpected keys are errors; wrong shapes always are.

        Returns:
            (missing_keys, unexpected_keys).

        Raises:
            RuntimeError: Keys or shapes do not fit, or a value holds no numbers; the message has
                a line for each, and the module is unchanged.
        """
        own = self._state()
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        problems = []
        if strict:
            problems += [f"missing: {name} {own[name].shape}" for name in missing]
            problems += [f"unexpected: {name}" for name in unexpected]
        values: dict[str, Tensor] = {}
        for name, tensor in own.items():
            if name not in state_dict:
                continue
            try:
                values[name] = Tensor(state_dict[name])
            except TypeError as error:
                problems.append(f"no numbers: {name}: {error}")
                continue
            if values[name].shape != tensor.shape:
                problems.append(
                    f"wrong shape: {name} is {tensor.shape} here, {values[name].shape} in the state"
                )
        if problems:
            raise RuntimeError(
                f"load_state_dict: the state does not fit {type(self).__name__}, which is "
                "unchanged\n  " + "\n  ".join(problems)
            )
        for name, value in values.items():
            own[name].copy_(value)
        return LoadedKeys(missing, unexpected)

    def to(self, where_or_dtype: Any) -> Self:
        """Convert floating parameters, their gradients and floating buffers; return self.

        The Parameter objects stay, so that an optimizer keeps its hold on them.

        Args:
            where_or_dtype: float32 or float64; or "cpu" or "cuda", as the methods of these names.

        Raises:
            TypeError: It is none of these.
        """
        if isinstance(where_or_dtype, str) and where_or_dtype in ("cpu", "cuda"):
            return getattr(self, where_or_dtype)()
        dtype = float_dtype(f"{type(self).__name__}.to", where_or_dtype)
        return self._convert(lambda x: x.to(dtype) if is_floating(x.dtype) else x)

    def cpu(self) -> Self:
        """Move parameters, their gradients and buffers to the memory of the host; return self."""
        return self._convert(lambda x: x.cpu())

    def cuda(self) -> Self:
        """Move parameters, their gradients and buffers to the GPU; return self.

        Raises:
            RuntimeError: Backend ``cuda`` cannot be used here; the message says why.
        """
        return self._convert(lambda x: x.cuda())

    def _convert(self, converted: Callable[[Tensor], Tensor]) -> Self:
        for tensor in (*self.parameters(), *self.buffers()):
            data = converted(tensor.detach()).data
            if data is tensor.data:
                continue
            tensor.data = data
            tensor._version.count += 1
            if tensor.grad is not None:
                tensor.grad = converted(tensor.grad)
        return self

    def float(self) -> Self:
        """Convert to float32, as ``to``."""
        return self.to(np.float32)

    def double(self) -> Self:
        """Convert to float64, as ``to``."""
        return self.to(np.float64)

    # Modes

    def train(self, mode: bool = True) -> Self:
        """Set ``training`` of this module and all below it; return self.

        Raises:
            ValueError: ``mode`` is no bool.
        """
        if not isinstance(mode, bool):
            raise ValueError(f"{type(self).__name__}.train: mode must be a bool, got {mode!r}")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Leave training: dropout passes on, batch-norm uses its running statistics."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Train the parameters or freeze them; return self."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of the parameters, or fill them with zeros."""
        for parameter in self.parameters():
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.copy_(0.0)

    # The call

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; every subclass that is called defines this."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the pre-hooks, ``forward`` and the hooks; errors name the layer in a note."""
        try:
            for hook in tuple(self._forward_pre_hooks.values()):
                replaced = hook(self, args)
                if replaced is not None:
                    args = replaced if isinstance(replaced, tuple) else (replaced,)
            output = self.forward(*args, **kwargs)
            for hook in tuple(self._forward_hooks.values()):
                replaced = hook(self, args, output)
                if replaced is not None:
                    output = replaced
            return output
        except Exception as error:
            _note_layer(error, self)
            raise

    def register_forward_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, args)`` before ``forward``; what it returns, if not None, replaces
        the positional arguments.
        """
        return RemovableHandle(self._forward_pre_hooks, hook)

    def register_forward_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call ``hook(module, args, output)`` after ``forward``; what it returns, if not None,
        replaces the output.
        """
        return RemovableHandle(self._forward_hooks, hook)

    # Text

    def extra_repr(self) -> str:
        """Return what stands between the parentheses of ``repr``, before the submodules."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = [
            f"({name}): {module!r}".replace("\n", "\n  ") for name, module in self._own("module")
        ]
        if not lines:
            return f"{type(self).__name__}({extra})"
        lines = [*extra.splitlines(), *lines]
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"


def _kind(value: Any) -> Kind | None:
    """Return the kind of member that assigning ``value`` registers."""
    if isinstance(value, Parameter):
        return "parameter"
    return "module" if isinstance(value, Module) else None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _unique(named: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield each value under its first name only."""
    seen: set[int] = set()
    for name, value in named:
        if id(value) not in seen:
            seen.add(id(value))
            yield name, value


def _note_layer(error: Exception, caller: Module) -> None:
    """Note on ``error`` which layer raised it.

    Every module on the way out comes by here. The first is the layer; each later one replaces
    the note, because it knows a longer path.
    """
    layer: Module = vars(error).setdefault("layer", caller)
    path = next((path for path, module in caller.named_modules() if module is layer), "")
    what = f"{type(layer).__name__}({layer.extra_repr()})"
    notes = [note for note in getattr(error, "__notes__", []) if not note.startswith("in layer ")]
    error.__notes__ = [*notes, f'in layer "{path}" ({what})' if path else f"in layer {what}"]
