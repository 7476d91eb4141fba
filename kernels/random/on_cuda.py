"""random on CUDA: launches of random.cu, a thread for each Philox counter."""

from ..cuda.launch import Kernel, ceil_div
from ..layout import contiguous

_BLOCK = 256
_BLOCK_BYTES = 16  # of numbers that one counter gives
_FLOATS = ("float32", "float64")

_TICKET = Kernel(__file__, "random.cu", "random_ticket_advance", block=32)
_WORDS = Kernel(__file__, "random.cu", "random_philox_words", block=_BLOCK)
_UNIFORM = Kernel(__file__, "random.cu", "random_uniform_blocks", block=_BLOCK, STORAGE=_FLOATS)
_NORMAL = Kernel(__file__, "random.cu", "random_normal_box_muller", block=_BLOCK, STORAGE=_FLOATS)


def ticket(state, blocks, drawn):
    _TICKET.launch(1, state, state.strides[0] // state.itemsize, blocks, drawn)


def philox(key, low, high, out):
    blocks = out.size // 4
    _WORDS.launch(ceil_div(blocks, _BLOCK), key, low, high, out, blocks)


def uniform(ticket, out):
    _UNIFORM.launch(_grid(out), contiguous(ticket), out, out.size, STORAGE=out.dtype)


def normal(ticket, out):
    _NORMAL.launch(_grid(out), contiguous(ticket), out, out.size, STORAGE=out.dtype)


def _grid(out):
    return ceil_div(ceil_div(out.nbytes, _BLOCK_BYTES), _BLOCK)
