"""layout on the CPU: a strided copy is bound by memory, and NumPy walks it in the order of y."""

from .on_numpy import fill

__all__ = ["fill"]
