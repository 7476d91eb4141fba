"""Tensor, reverse mode and the functions on tensors."""

from . import functional as functional
from .autograd import enable_grad as enable_grad
from .autograd import is_grad_enabled as is_grad_enabled
from .autograd import no_grad as no_grad
from .autograd import set_grad_enabled as set_grad_enabled
from .creation import arange as arange
from .creation import full as full
from .creation import ones as ones
from .creation import ones_like as ones_like
from .creation import zeros as zeros
from .creation import zeros_like as zeros_like
from .ops import cat as cat
from .ops import matmul as matmul
from .ops import maximum as maximum
from .ops import minimum as minimum
from .ops import stack as stack
from .ops import where as where
from .tensor import Parameter as Parameter
from .tensor import Tensor as Tensor
from .tensor import from_dlpack as from_dlpack
