"""Run and check a CUDA kernel of your own on a machine without a GPU.

    python examples/emulate_kernel.py

Transposes a matrix in two ways, compares what the memory system would see, and finds a missing
barrier that a GPU forgives most of the time.
"""

from pathlib import Path

import numpy as np

from convolt.kernels import emulator

SOURCE = Path(__file__).with_name("transpose.cu")
ROWS, COLUMNS = 96, 64
GRID, BLOCK = (COLUMNS // 32, ROWS // 32), (32, 32)


def main() -> None:
    """Print what the two kernels move, and the mistake that is found."""
    x = np.random.default_rng(0).standard_normal((ROWS, COLUMNS), np.float32)

    program = emulator.load(SOURCE)
    for entry in ("transpose_direct", "transpose_tiled"):
        y = np.full((COLUMNS, ROWS), np.nan, np.float32)
        with emulator.options(mode="check"):
            counters = program.launch(entry, GRID, BLOCK, x, y, ROWS, COLUMNS)
        assert np.array_equal(y, x.T)
        print(
            f"{entry}: right; {x.nbytes} bytes each way, "
            f"{32 * counters.global_read_sectors} read and {32 * counters.global_write_sectors} "
            f"written in sectors, {counters.bank_conflicts} bank conflicts"
        )

    print("\nthe same without its barrier:")
    try:
        with emulator.options(mode="check"):
            mistaken = emulator.load(SOURCE, MISTAKE=1)
            mistaken.launch("transpose_tiled", GRID, BLOCK, x, y, ROWS, COLUMNS)
    except emulator.EmulatorError as error:
        print(error)


if __name__ == "__main__":
    main()
