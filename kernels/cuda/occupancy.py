"""How much of an SM a kernel fills, from what one block of it takes.

Limits: CUDA C++ Programming Guide, "Compute Capabilities", the table of technical
specifications; how registers and shared memory are rounded up: NVIDIA's cuda_occupancy.h.
"""

from dataclasses import dataclass

WARP = 32
_REGISTERS = 64 * 1024  # of an SM, on all of these
_PARTITIONS = 4  # of an SM: a warp, and its registers, live in one of them
_REGISTER_UNIT = 256  # registers of a warp are given out in these


@dataclass(frozen=True, slots=True)
class Limits:
    """What one SM holds.

    Attributes:
        warps: At a time.
        blocks: At a time.
        shared_bytes: Shared memory of all its blocks.
        block_shared_bytes: The most that one block can have.
        reserved_bytes: What the system takes of it for each block.
        shared_unit: Bytes that a block's share is a multiple of.
    """

    warps: int
    blocks: int
    shared_bytes: int
    block_shared_bytes: int
    reserved_bytes: int
    shared_unit: int


LIMITS = {
    "sm_75": Limits(32, 16, 64 * 1024, 64 * 1024, 0, 256),
    "sm_80": Limits(64, 32, 164 * 1024, 163 * 1024, 1024, 128),
    "sm_90a": Limits(64, 32, 228 * 1024, 227 * 1024, 1024, 128),
    "sm_100a": Limits(64, 32, 228 * 1024, 227 * 1024, 1024, 128),
}


def blocks_per_sm(arch: str, *, block: int, registers: int, shared_bytes: int) -> int:
    """Return how many blocks one SM holds at a time; 0: not even one can run.

    Args:
        arch: One of ``LIMITS``.
        block: Threads of a block.
        registers: Of a thread.
        shared_bytes: Of a block, static and dynamic.
    """
    limits = LIMITS[arch]
    if shared_bytes > limits.block_shared_bytes:
        return 0
    warps = -(-block // WARP)
    held = [limits.blocks, limits.warps // warps]
    if registers:
        warp_registers = _round_up(registers * WARP, _REGISTER_UNIT)
        if warp_registers * _round_up(warps, _PARTITIONS) > _REGISTERS:
            return 0
        held.append(_REGISTERS // _PARTITIONS // warp_registers * _PARTITIONS // warps)
    if taken := _round_up(shared_bytes + limits.reserved_bytes, limits.shared_unit):
        held.append(limits.shared_bytes // taken)
    return min(held)


def occupancy(arch: str, *, block: int, registers: int, shared_bytes: int) -> int:
    """Return the warps that one SM holds, in percent of the most that it can hold.

    Args:
        arch: One of ``LIMITS``.
        block: Threads of a block.
        registers: Of a thread.
        shared_bytes: Of a block, static and dynamic.
    """
    blocks = blocks_per_sm(arch, block=block, registers=registers, shared_bytes=shared_bytes)
    return round(100 * blocks * -(-block // WARP) / LIMITS[arch].warps)


def _round_up(n: int, unit: int) -> int:
    return -(-n // unit) * unit
