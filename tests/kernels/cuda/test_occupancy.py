import pytest

from convolt.kernels.cuda.compile import ARCHS
from convolt.kernels.cuda.occupancy import LIMITS, blocks_per_sm, occupancy


@pytest.mark.parametrize(
    ("arch", "block", "registers", "shared_bytes", "blocks", "percent"),
    [
        ("sm_80", 256, 32, 0, 8, 100),  # by threads
        ("sm_80", 32, 16, 0, 32, 50),  # by blocks
        ("sm_75", 32, 16, 0, 16, 50),
        ("sm_75", 1024, 64, 0, 1, 100),
        ("sm_80", 256, 33, 0, 6, 75),  # by registers: 40 a thread, 51 warps, 6 whole blocks
        ("sm_80", 256, 128, 0, 2, 25),
        ("sm_80", 256, 255, 0, 1, 12),
        ("sm_90a", 512, 255, 0, 0, 0),  # 8 warps take all registers
        ("sm_75", 256, 32, 32 * 1024, 2, 50),  # by shared memory
        ("sm_80", 256, 32, 32 * 1024, 4, 50),  # 4 x 33 KB of 164
        ("sm_90a", 256, 32, 32 * 1024, 6, 75),
        ("sm_90a", 256, 32, 227 * 1024, 1, 12),
        ("sm_80", 256, 32, 164 * 1024, 0, 0),  # more than a block can have
        ("sm_80", 48, 16, 0, 32, 100),  # a part of a warp is a warp
        ("sm_80", 160, 255, 0, 1, 8),  # 8 warps fit, as 2 in each partition
    ],
)
def test_blocks_that_an_sm_holds(arch, block, registers, shared_bytes, blocks, percent):
    block_needs = {"block": block, "registers": registers, "shared_bytes": shared_bytes}
    assert blocks_per_sm(arch, **block_needs) == blocks
    assert occupancy(arch, **block_needs) == percent


def test_every_arch_has_its_limits():
    assert LIMITS.keys() == set(ARCHS)
