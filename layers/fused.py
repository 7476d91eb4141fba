"""Convolution, batch-norm, residual and activation in one."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from ..engine import Tensor, functional
from ..kernels.batch_norm import ACTIVATIONS
from .conv import Conv2d
from .module import Module
from .normalization import BatchNorm2d


class ConvBnAct(Module):
    """activation(batch_norm(conv(x)) + residual): (N, C, H, W) to (N, K, P, Q).

    A call is that of ``conv_bn_act``, which has fewer passes over memory than the single layers.
    The state has the keys ``conv.weight``, ``bn.weight``, ``bn.bias``, ``bn.running_mean``, ...

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, dtype: As
            ``Conv2d``, which has no bias here.
        activation: "relu" or None.
        eps, momentum: As ``BatchNorm2d``.

    Attributes:
        conv: The ``Conv2d``.
        bn: The ``BatchNorm2d``.

    Raises:
        TypeError, ValueError: As ``Conv2d`` and ``BatchNorm2d``; there is no such activation; when
            called, as ``functional.conv_bn_act``.
    """

    conv: Conv2d
    bn: BatchNorm2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        activation: str | None = "relu",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"ConvBnAct: activation must be 'relu' or None, got {activation!r}")
        window = (kernel_size, stride, padding, dilation, groups)
        self.conv = Conv2d(in_channels, out_channels, *window, bias=False, dtype=dtype)
        self.bn = BatchNorm2d(out_channels, eps, momentum, dtype=dtype)
        self.activation = activation

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Convolve, normalize, add ``residual``, of the shape of the result, and activate."""
        return conv_bn_act(self.conv, self.bn, input, self.activation, residual)

    def extra_repr(self) -> str:
        """Return the argument that the submodules do not show."""
        return f"activation={self.activation!r}"


def conv_bn_act(
    conv: Conv2d,
    bn: BatchNorm2d,
    input: Tensor,
    activation: str | None = "relu",
    residual: Tensor | None = None,
) -> Tensor:
    """Return activation(bn(conv(input)) + residual) by ``functional.conv_bn_act``.

    For nets whose convolutions and batch-norms are members of their own, under the names that a
    state has them. In evaluation, without gradients, the folded weights are kept until a parameter
    or a running statistic changes, or a call trains. Where a hook watches one of the layers, a
    convolution has a bias, or a class is derived, the layers are called one by one.

    Args:
        conv, bn: The layers.
        input: As ``Conv2d``.
        activation: "relu" or None.
        residual: Added before the activation, of the shape of the result, or None.

    Raises:
        TypeError, ValueError: As ``functional.conv_bn_act``.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"conv_bn_act: activation must be 'relu' or None, got {activation!r}")
    if not _fusible(conv, bn):
        return _one_by_one(conv, bn, input, activation, residual)
    window = {
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
    }
    parameters = conv.weight, bn.weight, bn.bias
    if bn.uses_batch or functional.is_grad_recorded(input, residual, *parameters):
        _folded.pop(conv, None)
        return bn.normalize(
            lambda mean, var, **options: functional.conv_bn_act(
                *(input, conv.weight, mean, var, bn.weight, bn.bias, residual, activation),
                **window,
                **options,
            )
        )
    return functional.conv_act(input, *_fold(conv, bn), residual, activation, **window)


def _one_by_one(
    conv: Conv2d, bn: BatchNorm2d, input: Tensor, activation: str | None, residual: Tensor | None
) -> Tensor:
    """Call the layers, where that is not the same to all who watch."""
    y = conv(input)
    if residual is not None and residual.shape != y.shape:  # before the batch is counted
        raise ValueError(f"conv_bn_act: residual has shape {residual.shape}, expected {y.shape}")
    y = bn(y)
    y = y if residual is None else y + residual
    return y if activation is None else functional.relu(y)


def _fusible(conv: Conv2d, bn: BatchNorm2d) -> bool:
    """Whether nobody could tell that the layers themselves are not called."""
    hooks = [h for layer in (conv, bn) for h in (layer._forward_hooks, layer._forward_pre_hooks)]
    return type(conv) is Conv2d and type(bn) is BatchNorm2d and conv.bias is None and not any(hooks)


class _Folded(NamedTuple):
    """The weight and bias of a convolution with its batch-norm, and what they were made of."""

    arrays: list[Any]
    versions: list[Any]
    weight: Tensor
    bias: Tensor


_folded: WeakKeyDictionary[Conv2d, _Folded] = WeakKeyDictionary()  # of calls in evaluation


def _fold(conv: Conv2d, bn: BatchNorm2d) -> tuple[Tensor, Tensor]:
    sources = conv.weight, bn.running_mean, bn.running_var, bn.weight, bn.bias
    arrays = [None if x is None else x.data for x in sources]
    versions = [bn.eps, *(None if x is None else x._version.count for x in sources)]
    known = _folded.get(conv)
    if (
        known is None
        or known.versions != versions
        or any(a is not b for a, b in zip(known.arrays, arrays, strict=True))
    ):
        folded = functional.fold_batch_norm(*sources, bn.eps)
        known = _folded[conv] = _Folded(arrays, versions, *folded)
    return known.weight, known.bias
