"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..kernels import adam
from ..kernels.arrays import Array
from .optimizer import Group, Optimizer, check_number


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), torch.optim.Adam's.

    d = grad + weight_decay * param, negated grad if ``maximize``;
    m = beta1 * m + (1 - beta1) * d;  v = beta2 * v + (1 - beta2) * d * d;
    param = param - lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) at step t.

    Args:
        params: Leaf tensors, (name, tensor) pairs, or dicts with "params" and a group's options.
        lr: Learning rate, >= 0.
        betas: Shares of m and v that stay, each >= 0 and < 1.
        eps: Added to the denominator, >= 0.
        weight_decay: Factor of the L2 penalty's gradient, >= 0.
        amsgrad: Divide by the largest v so far (Reddi, Kale, Kumar 2018).
        maximize: Ascend.

    Raises:
        TypeError: ``params`` are no float32 or float64 Tensors, or an option is no number.
        ValueError: No parameters, one twice, one that an op made, or an option out of range.
    """

    state_names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    _decoupled = False  # whether the decay bypasses the moments

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
            },
        )

    def _check_options(self, group: Group) -> None:
        rule = type(self).__name__
        for name in ("lr", "eps", "weight_decay"):
            check_number(f"{rule}: {name}", group[name], least=0)
        betas = group["betas"]
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise TypeError(f"{rule}: betas must be a pair of numbers, got {betas!r}")
        for i, beta in enumerate(betas):
            check_number(f"{rule}: betas[{i}]", beta, least=0, below=1)

    def _row(self, group: Group) -> tuple[float, ...]:
        row = [0.0] * adam.COLUMNS
        row[adam.LR] = float(group["lr"])
        row[adam.BETA1], row[adam.BETA2] = map(float, group["betas"])
        row[adam.EPS] = float(group["eps"])
        row[adam.WEIGHT_DECAY] = float(group["weight_decay"])
        row[adam.DECOUPLED] = float(self._decoupled)
        row[adam.AMSGRAD] = float(bool(group["amsgrad"]))
        row[adam.MAXIMIZE] = float(bool(group["maximize"]))
        return tuple(row)

    def _needs(self, group: Group) -> tuple[str, ...]:
        return self.state_names if group["amsgrad"] else self.state_names[:2]

    def _update(
        self, param: Array, grad: Array, state: dict[str, Array], segments: Array, hyper: Array
    ) -> None:
        adam.step(
            param,
            grad,
            state["exp_avg"],
            state["exp_avg_sq"],
            state.get("max_exp_avg_sq"),
            segments,
            hyper,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), torch.optim.AdamW's.

    param = param * (1 - lr * weight_decay), then Adam's step without decay. Arguments and errors
    are Adam's; ``weight_decay`` is 0.01 unless given.
    """

    _decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
