"""Tiles: what they compute, that none spills a register, on the CPU here and on others."""

import ctypes
import re

import numpy as np
import pytest

from convolt.kernels.cpu import memory
from convolt.kernels.cpu.assemble import address, assembly
from convolt.kernels.cpu.tiles import (
    PARAMETER_COUNT,
    Shape,
    Tile,
    Transpose,
    half_rows,
    parameters,
    tile_shape,
)

CPUS = {  # (triple, CPU, vector register of its assembly, the shape of its tiles)
    "skylake": ("x86_64-linux-gnu", "skylake-avx512", "zmm", Shape(14, 2, 16, True, 12)),
    "sapphire rapids": ("x86_64-linux-gnu", "sapphirerapids", "zmm", Shape(14, 2, 16, True, 12)),
    "zen 5": ("x86_64-linux-gnu", "znver5", "zmm", Shape(14, 2, 16, True, 12)),
    "haswell": ("x86_64-linux-gnu", "haswell", "ymm", Shape(6, 2, 8, True, 3)),
    "zen 2": ("x86_64-linux-gnu", "znver2", "ymm", Shape(6, 2, 8, True, 3)),
    "neoverse": ("aarch64-linux-gnu", "neoverse-n1", "q", Shape(6, 4, 4, True, 3)),
    "apple m1": ("arm64-apple-macosx", "apple-m1", "q", Shape(6, 4, 4, True, 3)),
}


def call(tile, **arguments):
    """Call the machine code of a tile."""
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * PARAMETER_COUNT)
    values = [arguments.pop(name, 0) for name in parameters(tile.kind)]
    assert not arguments
    kind(address(tile))(*values)


KINDS = [("rows", False), ("columns", False), ("columns", True)]
KINDS += [("channels", False), ("channels", True)]


def most_rows(shape, kind, partial):
    return shape.rows_beside if partial or kind == "channels" else shape.rows


def variants():
    for dtype in ("float32", "float64"):
        shape = tile_shape(dtype)
        for kind, partial in KINDS:
            for rows in range(1, most_rows(shape, kind, partial) + 1):
                for vectors in range(1, shape.vectors + 1):
                    yield Tile(kind, rows, vectors, shape.lanes, dtype, shape.fused, partial)


@pytest.mark.parametrize("tile", [*variants()], ids=lambda tile: tile.name)
def test_a_tile_adds_the_products_of_its_taps(tile, rng):
    item, width, taps, steps = np.dtype(tile.dtype).itemsize, tile.vectors * tile.lanes, 3, 5
    half = half_rows(tile.rows)
    a = rng.integers(-4, 5, (2, 40, 40)).astype(tile.dtype)  # [half, row or step, step or row]
    lanes = np.arange(width)
    b = rng.integers(-4, 5, (taps * steps + 20, width)).astype(tile.dtype)
    offsets = np.array([[3, 0], [0, 2 * steps], [7, steps]])  # of a in numbers, of b in rows
    table = offsets * [item, width * item]
    least = width - tile.lanes + 1  # of a partial tile: its last vector has lanes
    for columns in (least, width - 1) if tile.partial else (width, width - 1, 1):
        if not 0 < columns < width + (not tile.partial):
            continue
        y = np.full((2, 20, width + 3), np.nan, tile.dtype)
        start = rng.integers(-4, 5, width).astype(tile.dtype)
        expected = y.copy()
        for m in range(tile.rows):
            part, row = (m >= half, m - half * (m >= half))
            total = start.astype(np.float64)
            for a_first, b_first in offsets:
                for j in range(steps):
                    if tile.kind == "rows":
                        number = a[int(part)].reshape(-1)[a_first + row * 40 + j]
                    elif tile.kind == "columns":
                        number = a[0].reshape(-1)[a_first + j * 40 + m]
                    else:
                        first = a_first + row * 40 + j * 40
                        number = a[int(part)].reshape(-1)[first + lanes]
                    total += number * b[b_first + j]
            expected[int(part), row, :columns] = total[:columns]
        call(
            tile,
            a=a.ctypes.data,
            b=b.ctypes.data,
            y=y.ctypes.data,
            taps=table.ctypes.data,
            tap_count=taps,
            steps=steps,
            a_row=40 * item,
            **({"y_ahead": y.nbytes} if tile.kind == "columns" else {"a_half": a[0].nbytes}),
            **({"a_ahead": item} if tile.kind == "rows" else {"a_step": 40 * item}),
            b_step=width * item,
            y_row=y.strides[1],
            y_half=y.strides[0],
            columns=columns,
            start=start.ctypes.data,
        )
        np.testing.assert_array_equal(y, expected)


def test_without_taps_a_tile_is_where_its_sums_start():
    shape = tile_shape("float32")
    tile = Tile("rows", 2, 1, shape.lanes, "float32", shape.fused)
    y, start = np.full((2, shape.lanes), np.nan, np.float32), np.float32([7] * shape.lanes)
    call(tile, y=y.ctypes.data, y_row=y.strides[0], columns=3, start=start.ctypes.data)
    assert (y[:, :3] == 7).all()
    assert np.isnan(y[:, 3:]).all()


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transpose(dtype, streams, rng):
    lanes = tile_shape(dtype).lanes
    x = rng.standard_normal((lanes, lanes + 3)).astype(dtype)
    y = memory.empty((lanes, 1024 + (lanes if streams else 1)), x.dtype)  # streams whole lines
    y.fill(0)
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 5)
    code = kind(address(Transpose(lanes, dtype, streams)))
    code(y.ctypes.data, y.strides[0], x.ctypes.data, x.strides[0], 1 << 20)
    np.testing.assert_array_equal(y[:, :lanes], x[:, :lanes].T)
    assert not y[:, lanes:].any()


def spills(text, register):
    """Return the lines of assembly that keep a vector register on the stack."""
    if register == "q":  # saved on entry, as AArch64 asks for, are the lower halves d8 to d15
        return re.findall(r"^.*\b(?:str|ldr|stp|ldp|stur|ldur)\s+q\d+.*\[sp.*$", text, re.MULTILINE)
    return re.findall(rf"^.*%{register}.*\(%rsp.*$|^.*\(%rsp.*%{register}.*$", text, re.MULTILINE)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("cpu", CPUS)
def test_no_tile_spills(cpu, kind, dtype):
    triple, name, register, shape = CPUS[cpu]
    lanes = shape.lanes * 4 // np.dtype(dtype).itemsize
    most = most_rows(shape, *kind)
    sizes = {(most, shape.vectors), (most - 1, shape.vectors), (most, 1)}
    for rows, vectors in sorted(sizes | {(half_rows(most), shape.vectors)}):
        try:
            text = assembly(Tile(kind[0], rows, vectors, lanes, dtype, True, kind[1]), triple, name)
        except RuntimeError as error:  # llvmlite's LLVM is not built for every target
            pytest.skip(str(error))
        multiply_adds = re.findall(r"vfmadd\w+|\bfmla\b", text)
        assert len(multiply_adds) == rows * vectors
        assert not spills(text, register)


def test_the_count_of_spills_finds_them():
    tile = Tile("rows", 14, 4, 16)  # 56 sums in 32 registers
    assert spills(assembly(tile, "x86_64-linux-gnu", "znver5"), "zmm")
    tile = Tile("rows", 14, 4, 4)
    assert spills(assembly(tile, "aarch64-linux-gnu", "neoverse-n1"), "q")
