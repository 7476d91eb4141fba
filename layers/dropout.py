"""Dropout (Srivastava et al., 2014)."""

from ..engine import Tensor, functional
from .checks import number
from .module import Module


class Dropout(Module):
    """In training, zero each element with probability ``p`` and scale the others by 1 / (1 - p).

    Args:
        p: Probability of zeroing, in [0, 1].
        inplace: Accepted, changes nothing.

    Raises:
        TypeError: ``p`` is no number.
        ValueError: ``p`` lies outside [0, 1].
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        number("Dropout", "p", p)
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p must lie in [0, 1], got {p}")
        self.p = p
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Apply it; in evaluation the input itself."""
        return functional.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"p={self.p}, inplace={self.inplace}"
