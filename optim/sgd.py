"""Stochastic gradient descent."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..kernels import sgd
from ..kernels.arrays import Array
from .optimizer import Group, Optimizer, check_number


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, torch.optim.SGD's.

    d = grad + weight_decay * param, negated grad if ``maximize``;
    b = momentum * b + (1 - dampening) * d, at the first step d;
    param = param - lr * b, or with Nesterov's momentum param - lr * (d + momentum * b)
    (Sutskever, Martens, Dahl, Hinton 2013, with lr outside of b). Momentum that is switched on
    after some steps starts from b = 0.

    Args:
        params: Leaf tensors, (name, tensor) pairs, or dicts with "params" and a group's options.
        lr: Learning rate, >= 0.
        momentum: Share of b that stays, >= 0.
        dampening: Share of the gradient that does not enter b.
        weight_decay: Factor of the L2 penalty's gradient, >= 0.
        nesterov: Look ahead; needs momentum and no dampening.
        maximize: Ascend.

    Raises:
        TypeError: ``params`` are no float32 or float64 Tensors, or an option is no number.
        ValueError: No parameters, one twice, one that an op made, or an option out of range.
    """

    state_names = ("momentum_buffer",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def _check_options(self, group: Group) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            check_number(f"SGD: {name}", group[name], least=0)
        check_number("SGD: dampening", group["dampening"], least=-math.inf)
        if group["nesterov"] and not (group["momentum"] > 0 and group["dampening"] == 0):
            raise ValueError(
                f"SGD: nesterov needs momentum > 0 and dampening 0, got momentum "
                f"{group['momentum']} and dampening {group['dampening']}"
            )

    def _row(self, group: Group) -> tuple[float, ...]:
        row = [0.0] * sgd.COLUMNS
        row[sgd.LR] = float(group["lr"])
        row[sgd.MOMENTUM] = float(group["momentum"])
        row[sgd.DAMPENING] = float(group["dampening"])
        row[sgd.WEIGHT_DECAY] = float(group["weight_decay"])
        row[sgd.NESTEROV] = float(bool(group["nesterov"]))
        row[sgd.MAXIMIZE] = float(bool(group["maximize"]))
        return tuple(row)

    def _needs(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] else ()

    def _update(
        self, param: Array, grad: Array, state: dict[str, Array], segments: Array, hyper: Array
    ) -> None:
        sgd.step(param, grad, state.get("momentum_buffer"), segments, hyper)
