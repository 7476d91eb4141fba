"""Predicted time of kernels that multiply matrices in tiles: a roofline of counted work.

A block of threads makes a tile of the result. It walks along the depth in steps: each fills shared
memory with two operands' parts of a tile, and multiplies them. ``Work`` counts what that asks of a
GPU; ``predict`` divides by what the GPU can do (``gpu.py``). What goes on at the same time counts
by the longest, what does not is added:

    core = max(mma, shared, issue) + fill + epilogue + tail      on an SM
    time = launch + copies + sums + (max(core, l2)**4 + dram**4) ** (1/4)

The power mean says that DRAM and the rest do not overlap wholly: where they are level, the time is
1.19 of either.

Three constants are fitted to times of a bfloat16 GEMM that fast.cu published for an H100: the clock
of the h100 in ``gpu.py`` and ``EPILOGUE_CYCLES`` to 763 TFLOP/s at 4096^3 and 808 at 8192^3,
``SHARING`` to 777 without clusters. One, ``mma_flops_cycle``, is fitted to what kernels with
mma.sync are known to reach there, some 400. The other constants here are estimates, and say so: no
kernel of ours was timed for them.
"""

from dataclasses import dataclass, fields

from .gpu import Gpu

FILL_CYCLES = 970  # estimate: until the first step of a tile has arrived from DRAM, 0.6 us
EPILOGUE_CYCLES = 0.153  # fitted: of an SM, for each result of a tile, to round and store it
SHARING = 1.8  # fitted: L2 serves an operand that several SMs ask for at once so much quicker
DRAM_EFFICIENCY = 0.93  # estimate: of a copy's bandwidth, what a kernel with other work reaches
LAUNCH_S = 3e-6  # estimate: filling and draining the GPU, in a graph; a launch from a CPU is longer
ISSUED_CYCLE = 4  # instructions of warps that an SM begins in a cycle
SIMULTANEITY = 4.0  # estimate: the exponent of the power mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the kernels of one product of matrices ask of a GPU.

    Attributes:
        core: What multiplies: ``"fma"``, ``"mma"`` or ``"wgmma"``.
        operands: What is multiplied: ``"float32"``, ``"float64"``, ``"tf32"`` or ``"bfloat16"``.
        tile: Rows and columns of a tile, and the depth of a step.
        tiles: Made by each launch, the padding of the result up to whole tiles and all parts of a
            split sum included.
        steps: Of all tiles together.
        shared_bytes: Of shared memory, read and written in a step.
        instructions: Of warps, issued in a step.
        exposed: Share of a tile's beginning and end in which the SM multiplies nothing else.
        l2_bytes: Of operands, asked for by all tiles; L1 is taken to hold none of them.
        common_bytes: Of these, what several SMs ask for at the same time.
        dram_bytes: Moved to and from DRAM, parts of a split sum not included.
        partial_bytes: Written as parts of a split sum, and then read by a launch that adds them.
        copied_bytes: Read and written to bring operands into the layout that the kernels take,
        copies: by so many launches.
    """

    core: str
    operands: str
    tile: tuple[int, int, int]
    tiles: tuple[int, ...]
    steps: int
    shared_bytes: float
    instructions: float
    exposed: float
    l2_bytes: float
    common_bytes: float
    dram_bytes: float
    partial_bytes: float = 0.0
    copied_bytes: float = 0.0
    copies: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The time of kernels, and what each part of it would take alone, in seconds.

    Attributes:
        mma: Multiply-adds, of tiles in full.
        shared: Shared memory.
        issue: Issuing instructions.
        fill: Waiting for the first operands of a tile.
        epilogue: Rounding and storing tiles.
        tail: Waiting for the SMs that got one tile more.
        l2: Reading operands from L2.
        dram: DRAM.
        sums: Adding the parts of a split sum.
        copies: Bringing operands into another layout.
        launch: Launches.
    """

    mma: float
    shared: float
    issue: float
    fill: float
    epilogue: float
    tail: float
    l2: float
    dram: float
    sums: float
    copies: float
    launch: float

    @property
    def parts(self) -> dict[str, float]:
        """Name -> seconds, in the order of ``PARTS``."""
        return {name: getattr(self, name) for name in PARTS}

    @property
    def time_s(self) -> float:
        """The parts put together."""
        core = max(self.mma, self.shared, self.issue) + self.fill + self.epilogue + self.tail
        return self.launch + self.copies + self.sums + _level(max(core, self.l2), self.dram)

    @property
    def bound(self) -> str:
        """The name of the largest part."""
        return max(PARTS, key=self.parts.__getitem__)


PARTS = tuple(field.name for field in fields(Prediction))


def predict(work: Work, gpu: Gpu) -> Prediction:
    """Return the time that work takes on a GPU."""
    m, n, k = work.tile
    cycles_s = gpu.sms * gpu.clock_hz
    mma = 2.0 * m * n * k * work.steps / gpu.core_flops_s(work.core, work.operands)
    shared = work.steps * work.shared_bytes / gpu.shared_bytes_cycle / cycles_s
    issue = work.steps * work.instructions / ISSUED_CYCLE / cycles_s
    tiles = sum(work.tiles)
    fill = tiles * work.exposed * FILL_CYCLES / cycles_s
    epilogue = tiles * work.exposed * EPILOGUE_CYCLES * m * n / cycles_s
    private_bytes = work.l2_bytes - work.common_bytes
    dram_bytes_s = DRAM_EFFICIENCY * gpu.dram_bytes_s
    spilled_bytes = 0 if _stays_in_l2(work.partial_bytes, gpu) else work.partial_bytes
    launches = len(work.tiles) + bool(work.partial_bytes) + work.copies
    return Prediction(
        mma=mma,
        shared=shared,
        issue=issue,
        fill=fill,
        epilogue=epilogue,
        tail=(max(mma, shared, issue) + fill + epilogue) * _idle(work.tiles, gpu.sms),
        l2=(private_bytes + work.common_bytes / SHARING) / gpu.l2_bytes_s,
        dram=(work.dram_bytes + spilled_bytes) / dram_bytes_s,
        sums=work.partial_bytes / (dram_bytes_s if spilled_bytes else gpu.l2_bytes_s),
        copies=work.copied_bytes / dram_bytes_s,
        launch=launches * LAUNCH_S,
    )


def _idle(tiles: tuple[int, ...], sms: int) -> float:
    """The SMs' time without a tile while others have one, relative to that with one."""
    idle = sum(-made % sms for made in tiles)
    return idle / sum(tiles) if idle else 0.0


def _stays_in_l2(size_bytes: float, gpu: Gpu) -> bool:
    """Whether what one kernel writes is still there for the next one, in half of the cache."""
    return size_bytes <= gpu.l2_bytes / 2


def _level(a: float, b: float) -> float:
    """The power mean of two times that overlap in part."""
    longer, shorter = max(a, b), min(a, b)
    if not longer:
        return 0.0
    return longer * (1 + (shorter / longer) ** SIMULTANEITY) ** (1 / SIMULTANEITY)
