"""How the rows of a reduction are shared out among the threads of a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays import Array, address
from ..cuda.launch import ceil_div
from ..cuda.packs import PACK_BYTES
from ..cuda.strided import steps_of

BLOCK = 256
WARP = 32
WORTH_A_THREAD = 4  # elements of a row
WORTH_A_PART = 16  # elements for each thread of a part
BLOCKS = 1024  # enough to fill a GPU


@dataclass(frozen=True, slots=True)
class ReductionSize:
    """The fields of ``struct ReductionSize`` (reduction.cuh), a function of shape and strides."""

    kept: int
    reduced: int
    kept_stride: int
    reduced_stride: int
    parts: int
    part: int
    team: int
    along_kept: bool
    packed: bool

    @classmethod
    def of(cls, rows: Array, *, cut: bool = True) -> ReductionSize:
        """Return the size of (kept, reduced) rows, their parts one or, if ``cut``, up to BLOCKS."""
        kept, reduced = rows.shape
        kept_stride, reduced_stride = steps_of(rows.shape, rows.strides, rows.itemsize, rows.shape)
        along_kept = kept > 1 and (reduced == 1 or abs(kept_stride) < abs(reduced_stride))
        pack = PACK_BYTES // rows.itemsize
        packed = (
            not along_kept
            and reduced_stride == 1
            and reduced % pack == kept_stride % pack == 0
            and address(rows) % PACK_BYTES == 0
        )
        team = _power_of_two(ceil_div(reduced, WORTH_A_THREAD))
        if along_kept:  # neighbouring threads: up to a warp of rows
            team = min(team, BLOCK // min(WARP, _power_of_two(kept)))
        else:
            whole_row = _power_of_two(reduced // pack if packed else reduced)
            team = min(max(team, min(WARP, whole_row)), whole_row, BLOCK)
        groups = ceil_div(kept, BLOCK // team)
        parts = min(reduced // (team * WORTH_A_PART), BLOCKS // max(groups, 1)) if cut else 1
        part = max(ceil_div(ceil_div(reduced, max(parts, 1)), BLOCK) * BLOCK, 1)
        parts = max(ceil_div(reduced, part), 1)
        strides = kept_stride, reduced_stride
        return cls(kept, reduced, *strides, parts, part, team, along_kept, packed)

    @property
    def blocks(self) -> int:
        """Blocks of a launch."""
        return ceil_div(self.kept, BLOCK // self.team) * self.parts


def _power_of_two(n: int) -> int:
    """The least power of two that is at least ``n``."""
    return 1 << max(n - 1, 0).bit_length()
