"""Batch normalization (Ioffe and Szegedy, 2015)."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..engine import Parameter, Tensor, functional
from ..kernels.backend import array_module
from . import init
from .checks import count, float_dtype, number
from .module import Module


class BatchNorm(Module):
    """Base of the batch-norm layers: normalize each channel, then scale and shift it.

    In training by the statistics of the batch, which the running ones follow; in evaluation by
    the running ones, or by those of the batch when there are none.

    Args:
        num_features: C.
        eps: Added to the variance.
        momentum: Share of a batch in the running statistics; None for the mean of all batches.
        affine: Whether to learn a scale, ``weight``, and a shift, ``bias``.
        track_running_stats: Whether to keep running statistics.
        dtype: float32 (None) or float64.
        bias: False leaves the shift out of an affine layer.

    Attributes:
        weight, bias: (C,), ones and zeros at first, or None.
        running_mean, running_var: Buffers (C,), zeros and ones at first, or None.
        num_batches_tracked: Buffer, int64, 0-d, or None.

    Raises:
        TypeError: ``num_features`` is no int, ``eps`` or ``momentum`` no number, or ``dtype`` is
            not supported; when called, the dtype of the input differs.
        ValueError: ``num_features`` is below 1; when called, the input has another number of
            axes or channels, or one value a channel in training.
    """

    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    _shapes: ClassVar[dict[int, str]]  # number of axes: the shape in letters

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        layer = type(self).__name__
        self.num_features = count(layer, "num_features", num_features)
        number(layer, "eps", eps)
        if momentum is not None:
            number(layer, "momentum", momentum)
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        dtype, module = float_dtype(layer, dtype), array_module()
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            values = module.empty(self.num_features, dtype)
            self.register_parameter(name, Parameter(values) if wanted else None)
        for name in ("running_mean", "running_var"):
            values = module.empty(self.num_features, dtype)
            self.register_buffer(name, Tensor(values) if track_running_stats else None)
        batches = Tensor(module.zeros((), np.int64)) if track_running_stats else None
        self.register_buffer("num_batches_tracked", batches)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget the batches seen."""
        if self.running_mean is not None:
            init.zeros_(self.running_mean)
        if self.running_var is not None:
            init.ones_(self.running_var)
        if self.num_batches_tracked is not None:
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Start anew: weight 1, bias 0, no batches seen."""
        self.reset_running_stats()
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize; in training also move the running statistics."""
        self._check(input)
        return self.normalize(
            lambda mean, var, **options: functional.batch_norm(
                input, mean, var, self.weight, self.bias, **options
            )
        )

    def normalize(self, call: Callable[..., Tensor]) -> Tensor:
        """Return ``call(running_mean, running_var, training=, momentum=, eps=)``; count the batch.

        What ``forward`` does but for the function that it calls.
        """
        tracks = self.training and self.track_running_stats
        counter = self.num_batches_tracked if tracks else None
        momentum: Any = self.momentum
        if momentum is None:  # an array, like all that changes from step to step
            momentum = 0.0 if counter is None else (1.0 / (counter + 1).double()).data
        running = tracks or not self.training
        y = call(
            self.running_mean if running else None,
            self.running_var if running else None,
            training=self.uses_batch,
            momentum=momentum,
            eps=self.eps,
        )
        if counter is not None:
            counter += 1  # in place, after the call: one that failed does not count
        return y

    @property
    def uses_batch(self) -> bool:
        """Whether a call normalizes by the statistics of its batch."""
        return self.training or (self.running_mean is None and self.running_var is None)

    def _check(self, input: Tensor) -> None:
        if input.ndim not in self._shapes:
            expected = " or ".join(self._shapes.values())
            raise ValueError(
                f"{type(self).__name__}: input must be {expected}, got shape {input.shape}"
            )
        if input.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}: input has {input.shape[1]} channels {input.shape} but "
                f"num_features is {self.num_features}; change one of them"
            )

    def extra_repr(self) -> str:
        """Return the arguments."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(BatchNorm):
    """Batch-norm of (N, C) over N, or of (N, C, L) over N and L; arguments as ``BatchNorm``."""

    _shapes: ClassVar[dict[int, str]] = {2: "(N, C)", 3: "(N, C, L)"}


class BatchNorm2d(BatchNorm):
    """Batch-norm of (N, C, H, W) over N, H and W; arguments as ``BatchNorm``."""

    _shapes: ClassVar[dict[int, str]] = {4: "(N, C, H, W)"}
