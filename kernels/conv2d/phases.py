"""Which taps of a filter meet the image, along one axis: the outputs cut into runs.

Correlation with zero padding is correlation without padding whose window is cut off at the edges.
Along an axis the outputs are numbered by units u: unit u stands for ``block`` adjacent outputs
from ``first + u * step`` on, and reads the inputs ``u * in_step + offsets[j]``. Units that have the
same inputs inside the image make a run; a convolution is one small correlation for each
pair of a vertical and a horizontal run, in which no padding occurs.

fprop has one phase; dgrad one for each remainder of the pixel by the stride, as a pixel is only
touched by the taps that are congruent to it (the lectures' "fractionally strided" correlation).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

NONE = -1
"""In ``Phase.taps``: this output does not read this input."""


@dataclass(frozen=True, slots=True)
class Run:
    """Units ``first`` to ``first + count``: each reads offsets ``lo`` to ``hi``, none if equal."""

    first: int
    count: int
    lo: int
    hi: int
    outputs: int  # of each unit: the block, less where it reaches over the edge


@dataclass(frozen=True, slots=True)
class Phase:
    """The outputs ``first + u * step`` of an axis, u < units, and what they read."""

    first: int
    step: int
    units: int
    in_step: int
    offsets: tuple[int, ...]  # ascending
    taps: tuple[tuple[int, ...], ...]  # [i][j]: the tap with which output i of a unit reads input j
    last_outputs: int  # of the last unit

    @property
    def block(self) -> int:
        """Adjacent outputs of a unit."""
        return len(self.taps)

    def runs(self, length: int) -> Iterator[Run]:
        """Yield the runs on an input of ``length`` pixels, in order."""
        inputs = np.arange(self.units) * self.in_step
        lo = np.searchsorted(self.offsets, -inputs)
        hi = np.maximum(np.searchsorted(self.offsets, length - inputs), lo)
        outputs = np.full(self.units, self.block)
        outputs[-1:] = self.last_outputs
        facts = np.stack([lo, hi, outputs])
        starts = np.flatnonzero(np.diff(facts, axis=1).any(axis=0)) + 1
        bounds = [0, *starts.tolist(), self.units]
        for first, end in pairwise(bounds):
            if first < end:
                yield Run(first, end - first, *facts[:, first].tolist())


def fprop_phases(
    outputs: int, taps: int, stride: int, pad: int, dilation: int
) -> tuple[Phase, ...]:
    """Return the one phase of an axis: output p reads input p*stride - pad + r*dilation."""
    offsets = tuple(r * dilation - pad for r in range(taps))
    return (Phase(0, 1, outputs, stride, offsets, (tuple(range(taps)),), 1),)


def dgrad_phases(
    outputs: int, taps: int, stride: int, pad: int, dilation: int
) -> tuple[Phase, ...]:
    """Return the phases of an axis of grad_x, ``outputs`` pixels long, which reads grad_y.

    Pixel i = first + u*stride is touched by tap r at p = u + (first + pad - r*dilation) / stride,
    where that is whole. The offsets ascend with falling r: the filter is rotated.
    """
    phases = []
    for first in range(min(stride, outputs)):
        found = []
        for r in reversed(range(taps)):
            offset, rest = divmod(first + pad - r * dilation, stride)
            if not rest:
                found.append((offset, r))
        offsets, touching = zip(*found, strict=True) if found else ((), ())
        units = len(range(first, outputs, stride))
        phases.append(Phase(first, stride, units, 1, offsets, (touching,), 1))
    return tuple(phases)


def blocks(phases: tuple[Phase, ...], outputs: int, size: int) -> Phase:
    """Return all ``phases`` of an axis as one, of units of ``size`` adjacent outputs.

    So that few channels fill the lanes of a vector: output i of a unit and channel c are lane
    i * channels + c, and the filter has zeros where output i does not read an input.
    """
    step = phases[0].step
    assert size % step == 0
    read: dict[int, list[int]] = {}
    for phase in phases:
        for i in range(phase.first, size, step):
            for offset, tap in zip(phase.offsets, phase.taps[0], strict=True):
                place = (i - phase.first) // step * phase.in_step + offset
                read.setdefault(place, [NONE] * size)[i] = tap
    offsets = tuple(sorted(read))
    taps = tuple(tuple(read[offset][i] for offset in offsets) for i in range(size))
    units = -(-outputs // size)
    in_step = size // step * phases[0].in_step
    return Phase(0, size, units, in_step, offsets, taps, outputs - (units - 1) * size)
