"""The walk over the parameters that every update rule shares.

An optimizer is param_groups, flat buffers and one kernel. This base owns the walk: it flattens,
finds out who takes part, writes the tables that the kernel reads. A rule (sgd.py, adam.py) says
what one group's numbers are and which kernel steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..engine import Tensor, enable_grad
from ..engine.flat import FlatBuffer, check_gradient, flatten
from ..kernels import layout
from ..kernels.arrays import Array, full, is_float
from ..kernels.segments import ACTIVE, COLUMNS, GROUP, SIZE, START, STEP
from ..kernels.transfer import to_memory_of

Group = dict[str, Any]


class Part:
    """One flat buffer and what an optimizer keeps for it; all that a step reads is in arrays."""

    def __init__(self, flat: FlatBuffer, group_of: dict[int, int]) -> None:
        self.flat = flat
        self.state: dict[str, Array] = {}
        self.groups = [group_of[id(p)] for p in flat.parameters]
        self.active = [0] * len(self.groups)
        table = np.zeros((len(self.groups), COLUMNS), np.int64)
        table[:, START], table[:, SIZE], table[:, GROUP] = flat.starts, flat.sizes, self.groups
        self.segments = self._on_device(table)
        self.rows: list[tuple[float, ...]] = []
        self.hyper: Array = None

    def _on_device(self, table: np.ndarray) -> Array:
        """Return a copy of a host table where the parameters are."""
        return np.array(table, like=self.flat.data)

    def gather(self) -> list[int]:
        """Bring the gradients into the flat buffer; return who has one, 0 or 1 for each."""
        active = [0] * len(self.groups)
        for i, p in enumerate(self.flat.parameters):
            if p.requires_grad and p.grad is not None:
                check_gradient(p)
                if p.grad.data is not self.flat.grads[i]:
                    layout.fill(self.flat.grads[i], p.grad.data)
                active[i] = 1
        return active

    def write(self, active: list[int], rows: list[tuple[float, ...]]) -> None:
        """Write the tables that the kernel reads, where they have changed."""
        if self.active != active:
            layout.fill(self.segments[:, ACTIVE], self._on_device(np.array(active, np.int64)))
            self.active = active
        if self.rows != rows:
            hyper = self._on_device(np.array(rows, np.float64))
            if self.hyper is None:
                self.hyper = hyper
            else:
                layout.fill(self.hyper, hyper)  # in place: a captured step has its address
            self.rows = rows

    def make_state(self, names: Iterable[str]) -> None:
        """Make the buffers of these names, of zeros, unless they are there."""
        for name in names:
            if name not in self.state:
                self.state[name] = self.flat.like()

    def steps(self) -> np.ndarray:
        """Return how many steps each parameter has taken, (S,)."""
        return Tensor(self.segments[:, STEP]).numpy()

    def views(self, i: int) -> dict[str, Array]:
        """Return parameter i's part of each state buffer."""
        return {name: self.flat.view(buffer, i) for name, buffer in self.state.items()}

    def restore(self, states: dict[int, tuple[int, dict[str, Array]]]) -> None:
        """Set steps and state of all parameters from {id: (steps, arrays)}; absent: zero."""
        zero = full(self.flat.data, 0, ())
        steps = np.zeros(len(self.groups), np.int64)
        for i, p in enumerate(self.flat.parameters):
            steps[i], arrays = states.get(id(p), (0, {}))
            self.make_state(arrays)
            for name, view in self.views(i).items():
                layout.fill(view, to_memory_of(view, arrays.get(name, zero)))
        layout.fill(self.segments[:, STEP], self._on_device(steps))


class Optimizer(ABC):
    """What all update rules share: torch.optim.Optimizer's interface over flat buffers.

    The parameters move into flat buffers here (their ``data`` become views), and again at a step
    that finds one moved away or added; its state moves with it. A step changes the parameters
    that require a gradient and have one. The others are left alone entirely: not decayed, their
    momentum not moved, their step not counted.

    Args:
        params: Leaf tensors, (name, tensor) pairs, or dicts with "params" and a group's options.
        defaults: Options of groups that do not give their own.

    Raises:
        TypeError: ``params`` is one Tensor or a model, holds something else than Tensors, or a
            set; a dtype is not float32 or float64; an option has the wrong type.
        ValueError: No parameters, one twice, one that an op made, or an option out of range.
    """

    #: Names of the state arrays that a parameter may have.
    state_names: tuple[str, ...] = ()

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        name = type(self).__name__
        model = hasattr(params, "parameters")
        if model or isinstance(params, Tensor | dict) or not isinstance(params, Iterable):
            raise TypeError(
                f"{name}: params must be an iterable of Tensors or dicts, not one "
                f"{type(params).__name__}: "
                f"{'pass model.parameters()' if model else 'put it in a list'}"
            )
        self.defaults = defaults
        self.param_groups: list[Group] = []
        self._parts: list[Part] = []
        self._check_options(defaults)
        groups = list(params)
        if not groups:
            raise ValueError(f"{name}: an empty parameter list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)
        self._flatten()

    # What a rule supplies

    @abstractmethod
    def _check_options(self, group: Group) -> None:
        """Raise TypeError or ValueError unless the group's options are sound."""

    @abstractmethod
    def _row(self, group: Group) -> tuple[float, ...]:
        """Return the group's row of the kernel's table of hyper-parameters."""

    @abstractmethod
    def _needs(self, group: Group) -> tuple[str, ...]:
        """Return the names of the state arrays that the group's options ask for."""

    @abstractmethod
    def _update(
        self, param: Array, grad: Array, state: dict[str, Array], segments: Array, hyper: Array
    ) -> None:
        """Step one flat buffer: one launch."""

    # What users call

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters with options of their own; they are flattened at the next step.

        Raises:
            TypeError: ``param_group`` is no dict; otherwise as the class says.
            ValueError: It has no "params", or a parameter is here already; otherwise as the class
                says.
        """
        name = type(self).__name__
        if not isinstance(param_group, dict):
            raise TypeError(f"{name}: a group must be a dict, got {type(param_group).__name__}")
        if "params" not in param_group:
            raise ValueError(f'{name}: a group has no "params", only {sorted(param_group)}')
        group = {**self.defaults, **param_group}
        group["params"], names = self._named(group["params"])
        if names:
            group["param_names"] = names
        if any(("param_names" in group) != ("param_names" in other) for other in self.param_groups):
            raise ValueError(f"{name}: either all groups or none must name their parameters")
        taken = {id(p) for other in self.param_groups for p in other["params"]}
        for p in group["params"]:
            if not isinstance(p, Tensor):
                raise TypeError(f"{name}: only Tensors can be stepped, got {type(p).__name__}")
            if not is_float(p.data):
                raise TypeError(f"{name}: a parameter has dtype {p.dtype}, not float32 or float64")
            if p._node is not None:
                raise ValueError(
                    f"{name}: a tensor of shape {p.shape} was made by {p._node.name}; "
                    "only leaves can be stepped"
                )
            if id(p) in taken:
                raise ValueError(f"{name}: a parameter of shape {p.shape} was given twice")
            taken.add(id(p))
        self._check_options(group)
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or set those that exist to zero.

        The next ``backward`` writes into the same memory: clone a gradient that shall last.
        """
        for p in self._parameters():
            if set_to_none:
                p.grad = None
            elif p.grad is not None:
                layout.fill(p.grad.data, full(p.grad.data, 0, ()))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters from their gradients.

        Args:
            closure: Computes the loss and its gradients, and returns the loss.

        Returns:
            What ``closure`` returned, or None.

        Raises:
            TypeError: A gradient is no Tensor.
            ValueError: A gradient has the wrong shape, or an option is out of range.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        self._flatten()
        for group in self.param_groups:
            self._check_options(group)
        rows = [self._row(group) for group in self.param_groups]
        active = [part.gather() for part in self._parts]
        self._make_state()
        for part, takes_part in zip(self._parts, active, strict=True):
            if any(takes_part):
                part.write(takes_part, rows)
                flat = part.flat
                self._update(flat.data, flat.grad, part.state, part.segments, part.hyper)
                for p, took_part in zip(flat.parameters, takes_part, strict=True):
                    p._version.count += took_part
        return loss

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """State of each parameter that has been stepped: its "step" and Tensors on the buffers."""
        return {
            part.flat.parameters[i]: {
                "step": int(steps),
                **{name: Tensor(view) for name, view in part.views(i).items()},
            }
            for part in self._parts
            for i, steps in enumerate(part.steps())
            if steps
        }

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of what a later run needs to go on: state and options.

        Returns:
            {"state": {index: {"step": int, name: array of the parameter's shape}},
            "param_groups": [{option: value, "params": [index]}]}; arrays are NumPy, C-contiguous.
            Parameters are counted through the groups; those never stepped have no state.
        """
        self._flatten()
        self._make_state()
        parameters = self._parameters()
        index = {id(p): i for i, p in enumerate(parameters)}
        state = {
            index[id(p)]: {
                "step": values.pop("step"),
                **{name: np.array(view.numpy(), order="C") for name, view in values.items()},
            }
            for p, values in self.state.items()
        }
        groups = [
            {**group, "params": [index[id(p)] for p in group["params"]]}
            for group in self.param_groups
        ]
        return {"state": dict(sorted(state.items())), "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a ``state_dict``: options and state are replaced, parameters stay.

        Raises:
            ValueError: Groups, their sizes, names or shapes differ from this optimizer's; nothing
                has been changed then.
        """
        states, groups = self._checked(state_dict)
        self.param_groups = groups
        self._flatten()
        self._make_state()
        for part in self._parts:
            part.restore(states)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            count = sum(p.numel() for p in group["params"])
            options = [f"{k}={v}" for k, v in group.items() if k not in ("params", "param_names")]
            lines.append(f"  group {i}: {count:,} parameters, {', '.join(options)}")
        return "\n".join([*lines, ")"])

    # The walk

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _named(self, params: Any) -> tuple[list[Any], list[str]]:
        """Return parameters and names, if they have any, of a group's "params"."""
        name = type(self).__name__
        if isinstance(params, set | frozenset):
            raise TypeError(f"{name}: a set of parameters has no order; use a list")
        params = [params] if isinstance(params, Tensor) else list(params)
        names = [p[0] for p in params if isinstance(p, tuple)]
        if names and len(names) != len(params):
            raise ValueError(f"{name}: either all parameters or none must have names")
        return ([p[1] for p in params] if names else params), names

    def _flatten(self) -> None:
        """Move parameters and state into flat buffers, unless they are there already."""
        group_of = {
            id(p): number for number, group in enumerate(self.param_groups) for p in group["params"]
        }
        held = [id(p) for part in self._parts for p in part.flat.parameters]
        if len(held) == len(group_of) and all(
            group_of.get(id(p)) == part.groups[i] and part.flat.holds(i)
            for part in self._parts
            for i, p in enumerate(part.flat.parameters)
        ):
            return
        states = {
            id(p): (int(steps), part.views(i))
            for part in self._parts
            for i, (p, steps) in enumerate(zip(part.flat.parameters, part.steps(), strict=True))
        }
        buffers = flatten(self._parameters())
        self._parts = [Part(flat, group_of) for flat in buffers]
        for part in self._parts:
            part.restore(states)

    def _make_state(self) -> None:
        """Make the state buffers that the groups' options ask for."""
        names = [name for group in self.param_groups for name in self._needs(group)]
        for part in self._parts:
            part.make_state(names)

    def _checked(
        self, state_dict: dict[str, Any]
    ) -> tuple[dict[int, tuple[int, dict[str, Array]]], list[Group]]:
        """Return states by id and groups of a ``state_dict`` that fits this optimizer."""
        name = f"{type(self).__name__}.load_state_dict"
        if missing := {"state", "param_groups"} - set(state_dict):
            raise ValueError(f"{name}: {', '.join(sorted(missing))} missing")
        loaded = state_dict["param_groups"]
        if len(loaded) != len(self.param_groups):
            raise ValueError(
                f"{name}: {len(loaded)} groups were saved, here are {len(self.param_groups)}"
            )
        states: dict[int, tuple[int, dict[str, Array]]] = {}
        groups: list[Group] = []
        entries = {int(index): entry for index, entry in state_dict["state"].items()}
        for number, (there, here) in enumerate(zip(loaded, self.param_groups, strict=True)):
            if missing := {"params", *self.defaults} - set(there):
                raise ValueError(
                    f"{name}: group {number} has no {', '.join(sorted(missing))}; was it saved "
                    f"by another optimizer than {type(self).__name__}?"
                )
            if len(there["params"]) != len(here["params"]):
                raise ValueError(
                    f"{name}: group {number} had {len(there['params'])} parameters, here it has "
                    f"{len(here['params'])}"
                )
            group = {k: tuple(v) if isinstance(v, list) else v for k, v in there.items()}
            group["params"] = here["params"]
            if "param_names" in here:
                group["param_names"] = here["param_names"]
            self._check_options(group)
            groups.append(group)
            for index, p in zip(there["params"], here["params"], strict=True):
                if index in entries:
                    where = f"{name}: parameter {index} of shape {p.shape}"
                    states[id(p)] = self._checked_state(where, entries.pop(index), p, group)
        if entries:
            raise ValueError(f"{name}: state of parameters {sorted(entries)}, which no group has")
        return states, groups

    def _checked_state(
        self, where: str, entry: dict[str, Any], p: Tensor, group: Group
    ) -> tuple[int, dict[str, Array]]:
        arrays = {k: v for k, v in entry.items() if k != "step" and v is not None}
        steps = int(entry.get("step", 1 if arrays else 0))
        if unknown := set(arrays) - set(self.state_names):
            raise ValueError(f"{where} has {', '.join(sorted(unknown))}, unknown to this rule")
        if steps and (missing := set(self._needs(group)) - set(arrays)):
            raise ValueError(f"{where} has taken steps but lacks {', '.join(sorted(missing))}")
        for key, array in arrays.items():
            if tuple(np.shape(array)) != p.shape:
                raise ValueError(f"{where} has {key} of shape {tuple(np.shape(array))}")
        return steps, {k: to_memory_of(p.data, Tensor(v).data) for k, v in arrays.items()}


def check_number(where: str, value: Any, *, least: float, below: float = math.inf) -> None:
    """Raise unless ``value`` is a finite number in [least, below).

    Raises:
        TypeError: It is no number.
        ValueError: It is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{where} must be a number, got {value!r}")
    if not (math.isfinite(value) and least <= value < below):
        limits = "finite" if math.isinf(below) else f"< {below:g}"
        limits = limits if math.isinf(least) else f">= {least:g} and {limits}"
        raise ValueError(f"{where} must be {limits}, got {value!r}")
