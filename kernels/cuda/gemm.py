"""Launch configurations of the kernels that multiply by gemm_tile.cuh."""

from .launch import FLOAT_TYPES, Kernel, ceil_div

Tile = tuple[int, int]  # TILE_M, TILE_N

WIDE, SHORT_M, SHORT_N = (64, 64), (16, 64), (64, 16)
TILE_DEPTH = 16
SUM_BLOCK = 256  # threads of a block that adds partial sums

_BLOCKS_WANTED = 512  # by a split sum: some four for each multiprocessor of a large GPU
_LEAST_CHUNKS = 8  # of TILE_DEPTH, of one part of a split sum


def tiled_kernels(python_file: str, source: str, entry: str, *tiles: Tile) -> dict[Tile, Kernel]:
    """Return the entry point for each of ``tiles``: a thread has 4 x 4 results of a tile."""
    return {
        (m, n): Kernel(
            *(python_file, source, entry),
            block=m * n // 16,
            STORAGE=FLOAT_TYPES,
            TILE_M=m,
            TILE_N=n,
        )
        for m, n in tiles
    }


def tile_for(kernels: dict[Tile, Kernel], m: int, n: int) -> Tile:
    """Return the tile that suits an m x n result: a short one where that side is short."""
    for tile, extent in ((SHORT_M, m), (SHORT_N, n)):
        if tile in kernels and extent <= 2 * min(tile):
            return tile
    return WIDE


def tiles(tile: Tile, m: int, n: int) -> int:
    """Return the number of tiles that cover an m x n result."""
    return ceil_div(m, tile[0]) * ceil_div(n, tile[1])


def splits(blocks: int, depth: int) -> int:
    """Return the number of parts that sums of ``depth`` terms are cut into, each for ``blocks``.

    As many as keep a large GPU busy, if the parts do not get too short.
    """
    wanted = ceil_div(_BLOCKS_WANTED, max(blocks, 1))
    return max(1, min(wanted, ceil_div(depth, TILE_DEPTH) // _LEAST_CHUNKS))
