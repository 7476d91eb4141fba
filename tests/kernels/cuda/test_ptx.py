"""Every wrapper of ptx.cuh against NumPy, on the emulator and on a GPU alike.

The lane layouts written out here are those of the PTX ISA. Sums of small integers are exact in any
order, so that results are compared bit by bit.
"""

import re
import shutil
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from convolt.kernels.cuda import tensor_map
from convolt.kernels.cuda.launch import Kernel

SOURCE = "ptx_wrappers.cu"
LANE = np.arange(32)
GROUP, IN_GROUP = LANE // 4, LANE % 4


def kernel(entry, block=32, **constants):
    return Kernel(__file__, SOURCE, entry, block=block, **constants)


def need(device, arch, *others):
    """Skip on a GPU that lacks the instruction."""
    if device.arch is not None and device.arch < arch:
        pytest.skip(f"sm_{device.arch} has no such instruction: sm_{arch}")
    if device.arch is not None and others and device.arch not in others:
        pytest.skip(f"sm_{device.arch} has no such instruction: {others}")


def integers(rng, *shape):
    return rng.integers(-4, 5, shape).astype(np.float32)


def bfloat16_bits(x):
    return np.asarray(x, ml_dtypes.bfloat16).view(np.uint16)


# ---- Fragments -----------------------------------------------------------------------------------


def test_ldmatrix(device, rng):
    matrices = rng.integers(0, 2**16, (4, 8, 8), dtype=np.uint16)
    result = device.array(np.zeros((2, 3, 32, 4), np.uint32))
    kernel("ldmatrix_all").launch(1, device.array(matrices.view(np.uint32)), result)
    for transposed in (0, 1):
        source = matrices.swapaxes(1, 2) if transposed else matrices
        pairs = np.stack(
            [source[:, GROUP, 2 * IN_GROUP + e] for e in (0, 1)], -1
        )  # [matrix][lane][2]
        registers = np.ascontiguousarray(pairs).view(np.uint32)[..., 0].T
        for variant, n in enumerate((1, 2, 4)):
            got = device.numpy(result)[transposed, variant, :, :n]
            assert np.array_equal(got, registers[:, :n]), (transposed, n)


def mma_fragments(a, b, d):
    """Registers of the operands of m16n8kK: a (16, K), b (K, 8), d (16, 8), in their dtype."""
    wide = a.shape[1] // 8  # neighbours in k that one register holds
    columns = IN_GROUP[:, None] * wide + np.arange(wide)
    half = a.shape[1] // 2
    fragments_a = [a[(GROUP + 8 * (r % 2))[:, None], columns + half * (r // 2)] for r in range(4)]
    fragments_b = [b[columns + half * r, GROUP[:, None]] for r in range(2)]
    fragments_d = [d[GROUP + 8 * (r // 2), 2 * IN_GROUP + r % 2] for r in range(4)]
    return np.stack(fragments_a, 1), np.stack(fragments_b, 1), np.stack(fragments_d, 1)


@pytest.mark.parametrize(("entry", "k"), [("mma_bf16", 16), ("mma_tf32", 8)])
def test_mma(device, rng, entry, k):
    need(device, 80)
    a, b, d = integers(rng, 16, k), integers(rng, k, 8), integers(rng, 16, 8)
    registers = mma_fragments(a, b, d)
    as_words = bfloat16_bits if k == 16 else np.asarray
    words = [np.ascontiguousarray(as_words(r)).view(np.uint32)[..., 0] for r in registers[:2]]
    result = device.array(registers[2])
    kernel(entry).launch(1, *map(device.array, words), result)
    expected = mma_fragments(a, b, d + a @ b)[2]
    assert np.array_equal(device.numpy(result), expected)


def test_tf32_operands_lose_their_lower_bits(device):
    need(device, 80)
    a, b = np.zeros((16, 8), np.float32), np.zeros((8, 8), np.float32)
    a[:, 0], b[0] = np.float32(1 + 2**-10 + 2**-12), 1
    registers = mma_fragments(a, b, np.zeros((16, 8), np.float32))
    words = [np.ascontiguousarray(r).view(np.uint32)[..., 0] for r in registers[:2]]
    result = device.array(registers[2])
    kernel("mma_tf32").launch(1, *map(device.array, words), result)
    assert (device.numpy(result) == np.float32(1 + 2**-10)).all()


def test_conversions(device, rng):
    need(device, 80)
    ties = np.array([0x3F808000, 0x3F818000, 0x3F801000, 0x3F803000, 0x7F7FFFFF, 1], np.uint32)
    special = np.float32([0, -0.0, np.inf, -np.inf, np.nan, 1e-40])
    low = np.concatenate([special, ties.view(np.float32), rng.standard_normal(1000, np.float32)])
    high = low[::-1].copy()
    packed, tf32 = (device.array(np.zeros(low.size, np.uint32)) for _ in range(2))
    arrays = [device.array(v) for v in (low, high)]
    kernel("conversions", 128).launch(-(-low.size // 128), *arrays, packed, tf32, low.size)
    number = ~np.isnan(low)
    halves = device.numpy(packed).view(np.uint16).reshape(-1, 2)
    assert np.array_equal(halves[number, 0], bfloat16_bits(low[number]))
    assert np.array_equal(halves[~np.isnan(high), 1], bfloat16_bits(high[~np.isnan(high)]))
    assert np.isnan(halves[~number, 0].view(ml_dtypes.bfloat16).astype(np.float32)).all()
    bits = low.view(np.uint32).astype(np.uint64)
    rounded = np.where(np.isinf(low), bits, bits + 0x1000) & 0xFFFFE000
    got = device.numpy(tf32) & 0xFFFFE000  # the lower bits are nobody's business
    assert np.array_equal(got[number], rounded[number].astype(np.uint32))
    assert np.isnan(device.numpy(tf32)[~number].view(np.float32)).all()


# ---- Barriers and copies -------------------------------------------------------------------------


def test_named_barriers(device, rng):
    x, y = rng.random(128, np.float32), device.array(np.full(128, np.nan, np.float32))
    kernel("named_barriers", 128).launch(1, device.array(x), y)
    assert np.array_equal(device.numpy(y), np.concatenate([x[63::-1] + 1, x[63::-1]]))


@pytest.mark.parametrize("size", [4, 8, 16])
def test_cp_async(device, rng, size):
    need(device, 80)
    x = rng.integers(1, 256, (2, 64, size), dtype=np.uint8)
    y = device.array(np.zeros_like(x))
    kernel("cp_async_groups", 64, COPY_BYTES=(4, 8, 16)).launch(
        1, device.array(x), y, COPY_BYTES=size
    )
    valid = np.arange(size) < np.arange(64)[:, None]
    assert np.array_equal(device.numpy(y), np.where(valid, x, 0))


def test_mbarrier(device, rng):
    need(device, 90)
    x = rng.random((7, 64), np.float32)
    y = device.array(np.full((7, 64), np.nan, np.float32))
    kernel("mbarrier_ring", 128).launch(1, device.array(x), y, 7)
    assert np.array_equal(device.numpy(y), x[:, ::-1])


# ---- TMA -----------------------------------------------------------------------------------------


def swizzled(rows, swizzle_bytes):
    """Bytes (rows, row_bytes) as TMA places them: 16-byte units of a 128-byte line exchanged."""
    unit = np.arange(rows.size // 16)
    line = unit // 8 % (swizzle_bytes // 16) if swizzle_bytes else np.zeros_like(unit)
    placed = np.zeros((rows.size // 16, 16), np.uint8)
    placed[unit ^ line] = rows.reshape(-1, 16)
    return placed.ravel()


def box_at(array, corner, box):
    """The box whose first element is at ``corner``, zeros outside of the array."""
    margin = [
        (max(0, -c), max(0, c + b - s)) for c, b, s in zip(corner, box, array.shape, strict=True)
    ]
    padded = np.pad(array, margin)
    where = (slice(c + m, c + m + b) for c, b, (m, _) in zip(corner, box, margin, strict=True))
    return padded[tuple(where)]


BOXES = [  # shape, box, corner, swizzle; axes outermost first
    ((20, 24), (8, 16), (3, 5), 0),
    ((20, 24), (8, 32), (-2, -3), 128),
    ((20, 24), (16, 16), (13, 11), 64),
    ((20, 24), (16, 8), (30, 0), 32),
    ((5, 6, 12), (2, 3, 8), (-1, 4, 6), 0),
    ((3, 5, 6, 12), (2, 3, 4, 8), (2, -1, 3, -4), 32),
]


@pytest.mark.parametrize(("shape", "box", "corner", "swizzle"), BOXES)
def test_tma_load(device, rng, shape, box, corner, swizzle):
    need(device, 90)
    x = device.array(integers(rng, *shape))
    map_ = tensor_map.tiled(x, box, swizzle_bytes=swizzle)
    size = 4 * int(np.prod(box))
    y = device.array(np.full(size, 0xCC, np.uint8))
    inner_first = [*corner[::-1], 0, 0][:4]
    kernel("tma_load_box").launch(
        1, map_, y, len(shape), size, *inner_first, shared_bytes=size + 1024
    )
    expected = np.ascontiguousarray(box_at(device.numpy(x), corner, box)).view(np.uint8)
    assert np.array_equal(device.numpy(y), swizzled(expected.reshape(-1, 4 * box[-1]), swizzle))


@pytest.mark.parametrize(("shape", "box", "corner", "swizzle"), BOXES)
def test_tma_store(device, rng, shape, box, corner, swizzle):
    need(device, 90)
    values, y = integers(rng, *box), device.array(np.full(shape, np.nan, np.float32))
    shared = swizzled(values.view(np.uint8).reshape(-1, 4 * box[-1]), swizzle)
    inner_first = [*corner[::-1], 0, 0][:4]
    kernel("tma_store_box").launch(
        1,
        device.array(shared),
        tensor_map.tiled(y, box, swizzle_bytes=swizzle),
        len(shape),
        shared.size,
        *inner_first,
        shared_bytes=shared.size + 1024,
    )
    expected = np.full(shape, np.nan, np.float32)
    for index in np.ndindex(*box):
        at = tuple(c + i for c, i in zip(corner, index, strict=True))
        if all(0 <= a < s for a, s in zip(at, shape, strict=True)):
            expected[at] = values[index]
    assert np.array_equal(device.numpy(y), expected, equal_nan=True)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("first", [0, 5, 40])  # output pixel; the last runs over the last image
def test_tma_im2col(device, rng, stride, first):
    need(device, 90)
    (n, h, w, c), (r, s), padding, pixels = (2, 5, 6, 40), (3, 2), 1, 24
    p, q = (h + 2 * padding - r) // stride[0] + 1, (w + 2 * padding - s) // stride[1] + 1
    x = device.array(integers(rng, n, h, w, c))
    map_ = tensor_map.im2col(
        x,
        32,
        pixels,
        lower=(-padding, -padding),
        upper=(padding - r + 1, padding - s + 1),
        stride=stride,
        swizzle_bytes=128,
    )
    first %= n * p * q
    tap, channel, y = (2, 1), 16, device.array(np.full(pixels * 128, 0xCC, np.uint8))
    image, row, column = first // (p * q), first // q % p, first % q
    base = (row * stride[0] - padding, column * stride[1] - padding)
    kernel("tma_load_pixels").launch(
        1, map_, y, pixels * 128, channel, base[1], base[0], image, tap[1], tap[0],
        shared_bytes=pixels * 128 + 1024,
    )  # fmt: skip
    padded = np.pad(device.numpy(x), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    taken = padded[:, tap[0] :: stride[0], tap[1] :: stride[1]][:, :p, :q].reshape(-1, c)
    expected = np.zeros((pixels, 32), np.float32)  # images past the last one are zeros
    part = taken[first : first + pixels, channel : channel + 32]
    expected[: len(part), : part.shape[1]] = part
    assert np.array_equal(device.numpy(y), swizzled(expected.view(np.uint8), 128))


# ---- wgmma ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "a_mn_major", "b_mn_major"),
    [(64, 0, 0), (64, 0, 1), (64, 1, 0), (128, 1, 1), (192, 0, 1), (256, 0, 0)],
)
def test_wgmma(device, rng, n, a_mn_major, b_mn_major):
    need(device, 90, 90)
    a, b = integers(rng, 64, 32), integers(rng, n, 32)
    d = device.array(np.full((128, n // 2), np.nan, np.float32))
    kernel("wgmma_tile", 128, TILE_N=n, MN_MAJOR_A=a_mn_major, MN_MAJOR_B=b_mn_major).launch(
        1, *(device.array(bfloat16_bits(v)) for v in (a, b)), d, shared_bytes=8192 + n * 128 + 1024
    )
    thread, register = np.arange(128)[:, None], np.arange(n // 2)
    row = 16 * (thread // 32) + thread % 32 // 4 + register // 2 % 2 * 8
    column = register // 4 * 8 + thread % 4 * 2 + register % 2
    assert np.array_equal(device.numpy(d), (a @ b.T)[row, column])


def test_registers(device, rng):
    need(device, 90, 90, 100)
    x, y = rng.random(384, np.float32), device.array(np.full(384, np.nan, np.float32))
    kernel("registers_moved", 384).launch(1, device.array(x), y)
    assert np.array_equal(device.numpy(y), x)


# ---- Compilation, without a GPU ------------------------------------------------------------------

WANTED = {  # in the machine code of sm_90a
    "ldmatrix_all": ("LDSM.16.M88", "LDSM.16.M88.4", "LDSM.16.MT88.4"),
    "named_barriers": ("BAR.ARV", "BAR.SYNC"),
    "mma_bf16": ("HMMA.16816.F32.BF16",),
    "mma_tf32": ("HMMA.1688.F32.TF32",),
    "conversions": ("F2FP.BF16",),
    "cp_async_groups": ("LDGSTS", "LDGDEPBAR", "DEPBAR"),
    "mbarrier_ring": ("SYNCS",),
    "tma_load_box": ("UTMALDG.2D", "UTMALDG.3D", "UTMALDG.4D"),
    "tma_load_pixels": ("UTMALDG.4D.IM2COL",),
    "tma_store_box": ("UTMASTG.2D", "UTMASTG.3D", "UTMASTG.4D"),
    "wgmma_tile": ("HGMMA.64x64x16.F32.BF16",),
    "registers_moved": ("USETMAXREG",),
}


def cubin(arch):
    pytest.importorskip("cupy")
    from convolt.kernels.cuda import compile as compiler

    return compiler.cubin(Path(__file__).with_name(SOURCE), {"BLOCK": "128"}, arch)


@pytest.mark.parametrize(("arch", "lacks"), [
    ("sm_75", {"mma_bf16", "mbarrier_ring", "wgmma_tile"}),
    ("sm_80", {"mbarrier_ring", "wgmma_tile"}),
    ("sm_90a", set()),
    ("sm_100a", {"wgmma_tile"}),
])  # fmt: skip
def test_compiles_where_the_instruction_exists(arch, lacks):
    code = cubin(arch).code
    for entry in ("ldmatrix_all", "mma_bf16", "mbarrier_ring", "wgmma_tile"):
        assert (entry.encode() in code) == (entry not in lacks), entry


def nvdisasm():
    """The disassembler from the package nvidia-cuda-nvdisasm, or a CUDA toolkit's."""
    try:
        import nvidia
    except ImportError:
        return shutil.which("nvdisasm")
    found = [p for room in nvidia.__path__ for p in Path(room).glob("*/bin/nvdisasm")]
    return str(found[0]) if found else shutil.which("nvdisasm")


def test_machine_code_has_the_instructions(tmp_path):
    file = tmp_path / "ptx_wrappers.cubin"
    file.write_bytes(cubin("sm_90a").code + b"\0")  # CuPy drops the last byte, a zero
    if nvdisasm() is None:
        pytest.skip("nvdisasm is not installed: pip install nvidia-cuda-nvdisasm")
    command = [nvdisasm(), "-c", file]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    sections = re.split(r"\.section\s+\.text\.(\w+)", done.stdout)[1:]
    functions = dict(zip(sections[::2], sections[1::2], strict=True))
    for entry, instructions in WANTED.items():
        found = re.findall(r"\*/\s+(?:@!?U?P\d+\s+)?([A-Z][\w.]*)", functions[entry])
        missing = [i for i in instructions if not any(f.startswith(i) for f in found)]
        assert not missing, f"{entry}: {sorted(set(found))}"
