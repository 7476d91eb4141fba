"""Register-blocked tiles, the innermost loops of convolution and matrix products, as LLVM IR.

A tile of M rows and V vectors of L lanes computes

    y[m, :] = start[m, :] + sum over taps t, over j < steps of a[t, j, m] * b[t, j, :]

with one broadcast number a and V vectors b a step; the M * V sums stay in vector registers. All
distances are in bytes, every address is the caller's to keep alive, and nothing but the first
``columns`` numbers of a row of y is written. Each sum runs over t and j in order, in one chain
of fused multiply-adds, so that its bits depend neither on the tile nor on who computes it.

Three kinds of tile differ in what is known when they are compiled:

- "rows": a moves by one number a step, its rows by any stride; b is packed, V * L numbers a
  step. For fprop and dgrad: rows are pixels, b the filters.
- "columns": the rows of a are neighbours; a and b move by any stride. For wgrad: steps are
  pixels.
- "channels": a row of a is not one number but vectors as wide as those of b, multiplied lane by
  lane; all strides are any. For depthwise convolutions.

No tile may spill a register (tests/kernels/cpu/test_tiles.py reads the assembly).
"""

import platform
from dataclasses import dataclass
from functools import cache
from typing import Any

from llvmlite import ir

from .lanes import (
    I32,
    I64,
    LINE_BYTES,
    POINTER,
    VOID,
    Value,
    call_intrinsic,
    counted,
    load_masked,
    load_vector,
    prefetch,
    splat,
    store_masked,
    store_streaming,
    store_vector,
    suffix,
)
from .machine import cpu_features, vector_bytes, vector_registers

ELEMENTS = {"float32": ir.FloatType(), "float64": ir.DoubleType()}

PARAMETER_COUNT = 15


def parameters(kind: str) -> tuple[str, ...]:
    """Return the names of what a tile takes, all int64.

    - a, b, y: where the first row or step of each begins. a_row, y_row: from row to row.
    - a_half, y_half: from the first row to the first of the second half of the rows, which need not
      follow the first half. (The rows of a "columns" tile are neighbours in a: it has no a_half.)
    - taps: address of tap_count pairs (bytes from a, bytes from b); each is followed for steps.
    - a_step, b_step: from step to step. (A "rows" tile knows them.)
    - columns: of y, at most V * L.
    - start, start_row: where the sums begin; a stride of 0 repeats one row (the bias).

    And what it has fetched into the caches for the next tile:

    - a_ahead, of "rows": in step j of a tap, what is ``(steps + j) * a_ahead`` from its first a.
    - y_ahead, of "columns": the rows of y that are y_ahead from those of this tile.
    """
    return (
        *("a", "b", "y", "taps", "tap_count", "steps", "a_row"),
        "y_ahead" if kind == "columns" else "a_half",
        "a_ahead" if kind == "rows" else "a_step",
        *("b_step", "y_row", "y_half", "columns", "start", "start_row"),
    )


PREFETCH_STEPS = 8  # of packed b: it comes from L2
ROWS_THAT_HIDE_PREFETCHES = 8  # with fewer, loads and not multiply-adds bound a step


@dataclass(frozen=True, slots=True)
class Shape:
    """The largest tile whose sums, vectors of b and number of a fit into registers."""

    rows: int
    vectors: int
    lanes: int
    fused: bool
    rows_beside: int  # of tiles that need more registers: of channels, and partial ones

    @property
    def width(self) -> int:
        """Columns."""
        return self.vectors * self.lanes


@cache
def tile_shape(dtype: str) -> Shape:
    """Return the shape of the tiles for the CPU at hand."""
    lanes = vector_bytes() // (4 if dtype == "float32" else 8)
    if vector_registers() == 16:
        rows, vectors, beside = 6, 2, 3
    elif vector_bytes() == 64:
        rows, vectors, beside = 14, 2, 12
    else:
        rows, vectors, beside = 6, 4, 3
    fused = "fma" in cpu_features() or platform.machine().lower() in ("aarch64", "arm64")
    return Shape(rows, vectors, lanes, fused, beside)


@dataclass(frozen=True, slots=True)
class Tile:
    """One variant: ``kind`` "rows", "columns" or "channels", its size and element type.

    A ``partial`` tile reads, too, no more than ``columns`` numbers of its vectors: the last one
    has fewer than ``lanes``. (Packed ones, of rows, are padded.)
    """

    kind: str
    rows: int
    vectors: int
    lanes: int
    dtype: str = "float32"
    fused: bool = True  # multiply and add in one instruction, which some old CPUs lack
    partial: bool = False

    @property
    def name(self) -> str:
        """Of the compiled function."""
        kind = self.kind + "_partial" * self.partial + "_unfused" * (not self.fused)
        return f"{kind}_{self.rows}x{self.vectors}x{self.lanes}_{self.dtype}"

    def module(self) -> ir.Module:
        """Return the LLVM module with the one function of this tile."""
        result, function = _module(self.name, PARAMETER_COUNT)
        for argument, name in zip(function.args, parameters(self.kind), strict=True):
            argument.name = name
        _Emitter(self, function).emit()
        return result


def half_rows(rows: int) -> int:
    """Return how many rows are in the first half: all, up to 7."""
    return rows if rows <= 7 else -(-rows // 2)


def _module(name: str, parameters: int) -> tuple[ir.Module, ir.Function]:
    """Return a module and its one function, which takes so many int64."""
    result = ir.Module(name)
    return result, ir.Function(result, ir.FunctionType(VOID, [I64] * parameters), name)


def _const(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


class _Emitter:
    """Writes the body of one tile."""

    def __init__(self, tile: Tile, function: ir.Function) -> None:
        self.tile, self.function = tile, function
        self.element = ELEMENTS[tile.dtype]
        self.vector = ir.VectorType(self.element, tile.lanes)
        self.itemsize = 4 if tile.dtype == "float32" else 8
        self.vector_bytes = tile.lanes * self.itemsize
        self.builder: Any = ir.IRBuilder(function.append_basic_block("entry"))
        self.argument = dict(zip(parameters(tile.kind), function.args, strict=True))

    # Addresses

    def _pointer(self, name: str) -> Value:
        return self.builder.inttoptr(self.argument[name], POINTER)

    def _at(self, pointer: Value, offset: Value | int) -> Value:
        """Return the address ``offset`` bytes after ``pointer``."""
        return self.builder.gep(pointer, [_const(offset) if isinstance(offset, int) else offset])

    def _opaque(self, value: Value) -> Value:
        """Return ``value``, hiding how it was made.

        LLVM would keep the address of every row in a register, of which there are not enough, or
        derive them from each other, one addition after the other.
        """
        kind = ir.FunctionType(value.type, [value.type])
        return self.builder.asm(kind, "", "=r,0", (value,), False)

    def _row_offsets(self) -> list[Value | int]:
        """Return bytes from the first row of a half to each of its rows.

        One, three and five strides in registers: x86 addresses scale them by 2 and 4.
        """
        if self.tile.kind == "columns":
            return [m * self.itemsize for m in range(self.tile.rows)]
        stride = self.argument["a_row"]
        times = {
            odd: self._opaque(self.builder.mul(stride, _const(odd)))
            for odd, used_from in ((1, 2), (3, 4), (5, 6))
            if half_rows(self.tile.rows) >= used_from
        }
        offsets: list[Value | int] = [0]
        for m in range(1, half_rows(self.tile.rows)):
            shift = (m & -m).bit_length() - 1
            odd = times[m >> shift]
            offsets.append(self.builder.shl(odd, _const(shift)) if shift else odd)
        return offsets

    # Vectors

    def _load(self, pointer: Value, mask: Value | None = None) -> Value:
        """Load a vector; lanes that the mask leaves out are 0."""
        if mask is None:
            return load_vector(self.builder, pointer, self.vector, self.itemsize)
        zero = ir.Constant(self.vector, None)
        return load_masked(self.builder, pointer, mask, zero, self.itemsize)

    def _broadcast(self, pointer: Value) -> Value:
        number = self.builder.load(self.builder.bitcast(pointer, self.element.as_pointer()))
        return splat(self.builder, number, self.tile.lanes)

    # The body

    def emit(self) -> None:
        """Write the blocks: entry, a loop over taps around one over their steps, store.

        entry -> tap -> step -> next_tap -> store; step may go to step again, next_tap to tap, and
        entry to store where there are no taps.
        """
        builder = self.builder
        tap_block, step_block, next_tap, store = (
            self.function.append_basic_block(name) for name in ("tap", "step", "next_tap", "store")
        )
        y_rows = self._y_rows()
        self._fetch_y(y_rows)
        sums = self._start()
        self.last_mask = self._masks()[-1] if self.tile.partial else None
        a, b, taps = (self._pointer(name) for name in ("a", "b", "taps"))
        halves = [a]
        if self.tile.kind != "columns" and half_rows(self.tile.rows) < self.tile.rows:
            halves.append(self._at(a, self.argument["a_half"]))
        offsets = self._row_offsets()
        entry = builder.block
        no_taps = builder.icmp_unsigned("==", self.argument["tap_count"], _const(0))
        builder.cbranch(no_taps, store, tap_block)

        builder.position_at_end(tap_block)
        carried = self._carried([taps, *sums, self.argument["tap_count"]], entry)
        tap, *tap_sums, left = carried
        places = [
            builder.load(builder.bitcast(self._at(tap, 8 * i), I64.as_pointer())) for i in (0, 1)
        ]
        moved = [self._at(half, places[0]) for half in halves]
        b_tap = self._at(b, places[1])
        after = self._steps(step_block, next_tap, moved, b_tap, tap_sums, offsets)

        builder.position_at_end(next_tap)
        following, fewer = self._at(tap, 16), builder.sub(left, _const(1))
        last = builder.icmp_unsigned("==", fewer, _const(0))
        builder.cbranch(last, store, tap_block)
        _again(carried, [following, *after, fewer], next_tap)

        builder.position_at_end(store)
        results = self._carried(sums, entry)
        _again(results, after, next_tap)
        self._store(y_rows, results)

    def _fetch_y(self, rows: list[Value]) -> None:
        """Ask for the rows of y.

        The sums of a tile of rows are stored to where usually no cache holds them; those of columns
        are loaded too: asked for a tile earlier.
        """
        for row in rows:
            if self.tile.kind == "columns":
                row = self._at(row, self.argument["y_ahead"])
            for offset in range(0, self.tile.vectors * self.vector_bytes, LINE_BYTES):
                prefetch(self.builder, self._at(row, offset), write=True)

    def _steps(
        self,
        block: Any,
        end: Any,
        a: list[Value],
        b: Value,
        sums: list[Value],
        offsets: list[Value | int],
    ) -> list[Value]:
        """Write the loop over the steps of a tap, which goes on to ``end``; return the sums.

        a, for each half of the rows, and b are where the first step reads.
        """
        builder, before, argument = self.builder, self.builder.block, self.argument
        packed, ahead = self.tile.kind == "rows", []  # places to be fetched: one or none
        if packed:
            ahead = [self._at(a[0], builder.mul(argument["a_ahead"], argument["steps"]))]
        builder.branch(block)

        builder.position_at_end(block)
        (left,), pointers, totals, ahead = (
            self._carried(values, before) for values in ([argument["steps"]], [*a, b], sums, ahead)
        )
        *a_now, b_now = [self._opaque(pointer) for pointer in pointers]
        for place in ahead:
            prefetch(builder, place)
        after = self._step(a_now, b_now, totals, offsets)
        fewer = builder.sub(left, _const(1))
        a_step = self.itemsize if packed else argument["a_step"]
        b_step = self.tile.vectors * self.vector_bytes if packed else argument["b_step"]
        later = [*(self._at(pointer, a_step) for pointer in a_now), self._at(b_now, b_step)]
        further = [self._at(place, argument["a_ahead"]) for place in ahead]
        done = builder.icmp_unsigned("==", fewer, _const(0))
        builder.cbranch(done, end, block)
        carried = [left, *pointers, *totals, *ahead]
        _again(carried, [fewer, *later, *after, *further], builder.block)
        return after

    def _carried(self, values: list[Value], block: Any) -> list[Any]:
        """Return what values that come from ``block`` are here, at the start of another."""
        phis = [self.builder.phi(value.type) for value in values]
        _again(phis, values, block)
        return phis

    def _y_rows(self) -> list[Value]:
        half = half_rows(self.tile.rows)
        first = self._pointer("y")
        second = self._at(first, self.argument["y_half"])
        return [
            self._at(
                first if m < half else second,
                self.builder.mul(self.argument["y_row"], _const(m % half if m >= half else m)),
            )
            for m in range(self.tile.rows)
        ]

    def _start(self) -> list[Value]:
        """Load where the sums begin. The half of the rows matters when it is y itself."""
        builder, half = self.builder, half_rows(self.tile.rows)
        first, stride = self._pointer("start"), self.argument["start_row"]
        repeats = builder.icmp_unsigned("==", stride, _const(0))
        second = self._at(first, builder.select(repeats, _const(0), self.argument["y_half"]))
        rows = [
            self._at(
                first if m < half else second,
                builder.mul(stride, _const(m if m < half else m - half)),
            )
            for m in range(self.tile.rows)
        ]
        whole, part, join = (
            self.function.append_basic_block(name) for name in ("start", "start_part", "started")
        )
        builder.cbranch(self._is_whole(), whole, part)
        sums = []
        for block, masks in ((whole, None), (part, self._masks)):
            builder.position_at_end(block)
            sums.append(self._load_rows(rows, masks() if masks else None))
            builder.branch(join)
        builder.position_at_end(join)
        phis = self._carried(sums[0], whole)
        _again(phis, sums[1], part)
        return phis

    def _is_whole(self) -> Value:
        width = self.tile.vectors * self.tile.lanes
        return self.builder.icmp_unsigned(">=", self.argument["columns"], _const(width))

    def _masks(self) -> list[Value]:
        """Return, for each vector, which of its lanes are columns of y."""
        lanes, builder = self.tile.lanes, self.builder
        columns = splat(builder, self.argument["columns"], lanes)
        return [
            builder.icmp_unsigned("<", counted(I64, lanes, v * lanes), columns)
            for v in range(self.tile.vectors)
        ]

    def _load_rows(self, rows: list[Value], masks: list[Value] | None) -> list[Value]:
        loaded = []
        for row in rows:
            for v in range(self.tile.vectors):
                pointer = self._at(row, v * self.vector_bytes)
                loaded.append(self._load(pointer, masks[v] if masks else None))
        return loaded

    def _step(
        self, a: list[Value], b: Value, sums: list[Value], offsets: list[Value | int]
    ) -> list[Value]:
        """Multiply one number of each row with the vectors of b."""
        builder = self.builder
        # A barrier to the scheduler: loads of later steps, moved up, would spill the sums.
        builder.asm(ir.FunctionType(VOID, []), "", "~{memory}", (), True)
        if self.tile.kind == "rows":
            for v in range(0, self.tile.vectors * self.vector_bytes, LINE_BYTES):
                ahead = PREFETCH_STEPS * self.tile.vectors * self.vector_bytes + v
                prefetch(builder, self._at(b, ahead))
        elif self.tile.rows >= ROWS_THAT_HIDE_PREFETCHES:
            ahead = builder.shl(self.argument["b_step"], _const(2))
            for v in range(0, self.tile.vectors * self.vector_bytes, LINE_BYTES):
                prefetch(builder, self._at(self._at(b, ahead), v))
            ahead = builder.shl(self.argument["a_step"], _const(2))
            prefetch(builder, self._at(a[0], ahead))
        vectors = self._load_vectors(b)
        half, after = len(offsets), []
        for m in range(self.tile.rows):
            place = self._at(a[m // half], offsets[m % half])
            if self.tile.kind == "channels":
                factors = self._load_vectors(place)
            else:
                factors = [self._broadcast(place)] * len(vectors)
            for v, (factor, vector) in enumerate(zip(factors, vectors, strict=True)):
                after.append(self._multiply_add(factor, vector, sums[m * len(vectors) + v]))
        return after

    def _load_vectors(self, place: Value) -> list[Value]:
        found = []
        for v in range(self.tile.vectors):
            pointer = self._at(place, v * self.vector_bytes)
            cut = self.tile.partial and v == self.tile.vectors - 1
            found.append(self._load(pointer, self.last_mask if cut else None))
        return found

    def _multiply_add(self, a: Value, b: Value, total: Value) -> Value:
        if self.tile.fused:
            name = f"llvm.fma.{suffix(self.vector)}"
            return call_intrinsic(self.builder, name, self.vector, [a, b, total])
        return self.builder.fadd(total, self.builder.fmul(a, b))

    def _store(self, rows: list[Value], results: list[Value]) -> None:
        builder = self.builder
        whole, part, end = (
            self.function.append_basic_block(name) for name in ("whole", "part", "end")
        )
        builder.cbranch(self._is_whole(), whole, part)
        for block in (whole, part):
            builder.position_at_end(block)
            masks = self._masks() if block is part else None
            for i, result in enumerate(results):
                m, v = divmod(i, self.tile.vectors)
                pointer = self._at(rows[m], v * self.vector_bytes)
                if masks is None:
                    store_vector(builder, result, pointer, self.itemsize)
                else:
                    store_masked(builder, result, pointer, masks[v], self.itemsize)
            builder.branch(end)
        builder.position_at_end(end)
        builder.ret_void()


def _again(phis: list[Any], values: list[Value], block: Any) -> None:
    """Have the phis be these values where control comes from ``block``."""
    for phi, value in zip(phis, values, strict=True):
        phi.add_incoming(value, block)


@dataclass(frozen=True, slots=True)
class Transpose:
    """A function (to, to stride, from, from stride, ahead) that transposes lanes x lanes numbers.

    So many bytes ``ahead`` of what it reads it has the next numbers fetched into the caches. With
    ``streams``, rows of the result are whole lines, which go past the caches.
    """

    lanes: int
    dtype: str = "float32"
    streams: bool = False

    @property
    def name(self) -> str:
        """Of the compiled function."""
        return f"transpose_{self.lanes}_{self.dtype}{'_streaming' * self.streams}"

    def module(self) -> ir.Module:
        """Return the LLVM module: in log2(lanes) rounds, pairs of rows exchange halves."""
        result, function = _module(self.name, 5)
        _emit_transpose(self, function)
        return result


def _emit_transpose(block: Transpose, function: ir.Function) -> None:
    builder: Any = ir.IRBuilder(function.append_basic_block("entry"))
    to, to_stride, source, source_stride, ahead = function.args
    lanes, itemsize = block.lanes, 4 if block.dtype == "float32" else 8
    vector = ir.VectorType(ELEMENTS[block.dtype], lanes)

    def row(start: Value, stride: Value, index: int) -> Value:
        place = builder.add(start, builder.mul(stride, _const(index)))
        return builder.inttoptr(place, vector.as_pointer())

    rows = []
    for r in range(lanes):
        prefetch(builder, row(builder.add(source, ahead), source_stride, r))
        rows.append(builder.load(row(source, source_stride, r), align=itemsize))
    half = 1
    while half < lanes:
        keep = [j if not j & half else lanes + (j ^ half) for j in range(lanes)]
        swap = [j | half if not j & half else lanes + j for j in range(lanes)]
        numbers = ir.VectorType(I32, lanes)
        for r in (r for r in range(lanes) if not r & half):
            pair = rows[r], rows[r | half]
            rows[r] = builder.shuffle_vector(*pair, ir.Constant(numbers, keep))
            rows[r | half] = builder.shuffle_vector(*pair, ir.Constant(numbers, swap))
        half *= 2
    for r, value in enumerate(rows):
        if block.streams:
            store_streaming(builder, value, row(to, to_stride, r))
        else:
            builder.store(value, row(to, to_stride, r), align=itemsize)
    builder.ret_void()
