"""crop_flip_normalize on CUDA: a warp for each row of a result."""

from ..cuda.launch import FLOAT_TYPES, Kernel, ceil_div

_BLOCK = 256
_ROWS = _BLOCK // 32  # of a block

_ROWS_KERNEL = Kernel(
    __file__,
    "crop_flip_normalize.cu",
    "crop_flip_normalize_forward_rows",
    block=_BLOCK,
    STORAGE=FLOAT_TYPES,
)


def forward(x, placement, offset, scale, y):
    n, p, q, c = y.shape
    size = {"n": n, "h": x.shape[1], "w": x.shape[2], "c": c, "p": p, "q": q}
    grid = ceil_div(n * p, _ROWS) if c else 0
    _ROWS_KERNEL.launch(grid, x, placement, offset, scale, y, size, STORAGE=y.dtype)
