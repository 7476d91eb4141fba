import re
from collections import Counter
from pathlib import Path

import pytest

import convolt.kernels
from convolt.kernels.cuda import compile as compiler
from convolt.kernels.cuda.compile import ARCHS
from convolt.kernels.cuda.launch import Kernel
from convolt.kernels.cuda.signature import KEYWORDS, read
from convolt.kernels.cuda.table import all_kernels, all_sources, archs_of, table

KERNELS = all_kernels()
ENTRY_POINTS = [(path, name) for path in all_sources() for name in read(path).entry_points]
PACKAGE = Path(convolt.kernels.__file__).resolve().parent


def test_every_entry_point_belongs_to_a_kernel_and_every_kernel_to_an_entry_point():
    assert {(kernel.path, kernel.entry) for kernel in KERNELS} == set(ENTRY_POINTS)


def test_no_two_kernels_are_the_same():
    """Kernels of one entry point differ in block or constants, as tiles do."""
    variants = Counter(
        (kernel.path, kernel.entry, tuple(sorted(defines.items())))
        for kernel in KERNELS
        for defines in kernel.combinations()
    )
    assert not [variant for variant, times in variants.items() if times > 1]


def test_entry_points_have_names_of_their_own():
    times = Counter(name for _, name in ENTRY_POINTS)
    assert not [name for name in times if times[name] > 1]


def test_no_lambda_is_generic():
    """NVRTC 13.0 takes it for a function of the host."""
    generic = re.compile(r"\]\s*\([^)]*\bauto\b")
    for path in all_sources():
        for file, text in read(path).files.items():
            assert not generic.search(text), file


def test_every_op_has_a_path_on_every_arch():
    archs = {op.parent: set() for op in PACKAGE.glob("*/on_cuda.py")}
    for kernel in KERNELS:
        archs[kernel.path.parent].update(archs_of(kernel.entry_point))
    assert {op.name for op, found in archs.items() if found and found != set(ARCHS)} == set()


@pytest.mark.parametrize(("path", "name"), ENTRY_POINTS, ids=lambda v: getattr(v, "stem", v))
def test_the_comment_above_an_entry_point_says_all(path, name):
    point = read(path).entry_point(name)
    assert point.comment
    assert point.notes.keys() == {"", *KEYWORDS}
    assert any(point.notes[""]), "no equation"
    assert all(any(point.notes[keyword]) for keyword in KEYWORDS)
    assert point.formula("reads")
    assert point.formula("writes")


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.entry)
def test_every_combination_of_constants_has_a_signature(kernel):
    for defines in kernel.combinations():
        signature = read(kernel.path).signature(kernel.entry, defines)
        assert any(p.pointer and not p.const for p in signature.parameters), "writes nothing"


def test_every_kernel_compiles_for_every_arch_without_spills_and_stack():
    try:
        compiler.nvrtc_version()
    except RuntimeError as error:
        pytest.skip(str(error))
    rows = table(KERNELS)
    expected = sum(
        len(list(kernel.combinations())) * len(archs_of(kernel.entry_point)) for kernel in KERNELS
    )
    assert len(rows) == expected > 0
    unsound = [row.state for row in rows if not row.sound]
    assert not unsound
    assert all(0 < row.registers <= 255 and 0 < row.occupancy <= 100 for row in rows)


UNSOUND = """
// Limits    sm_80 and newer: sm_80, sm_90a, sm_100a
extern "C" __global__ void stack(float* x, int n) {
  float local[40];
  for (int i = 0; i < n; ++i) local[i] = x[i];
  x[0] = local[n];
}
extern "C" __global__ void shared(float* x) {
  __shared__ float tile[256];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = tile[LANES];
}
"""


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    try:
        compiler.nvrtc_version()
    except RuntimeError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("CONVOLT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("convolt.kernels.cuda.table.KERNELS", tmp_path)
    (tmp_path / "op").mkdir()
    (tmp_path / "op" / "op.cu").write_text(UNSOUND)

    def kernel(entry, **options):
        file = str(tmp_path / "op" / "on_cuda.py")
        return Kernel(file, "op.cu", entry, block=256, **{"LANES": (0, 1)} | options)

    return kernel


def test_a_row_says_what_a_kernel_takes(kernel):
    first, second = table([kernel("shared", shared_bytes=1000)], ["sm_75"])
    assert (first.kernel, first.file, first.arch) == ("shared", "op/op.cu", "sm_75")
    assert first.constants == {"BLOCK": "256", "LANES": "0"}
    assert second.constants == {"BLOCK": "256", "LANES": "1"}
    assert first.shared_bytes == 1024 + 1000
    assert first.occupancy == 100
    assert first.sound


def test_a_stack_frame_is_not_sound_and_limits_name_the_archs(kernel):
    rows = table([kernel("stack", LANES=0)])
    assert [row.arch for row in rows] == ["sm_80", "sm_90a", "sm_100a"]
    assert {row.stack_bytes for row in rows} == {160}
    assert not any(row.sound for row in rows)


def test_what_does_not_compile_is_a_row_with_the_error(kernel):
    (row,) = table([kernel("shared", LANES="float32")], ["sm_80"])
    assert "op.cu(" in row.error
    assert not row.sound


def test_what_no_sm_can_hold_is_not_sound(kernel):
    (row,) = table([kernel("shared", LANES=0, shared_bytes=64 * 1024)], ["sm_75"])
    assert row.occupancy == 0
    assert not row.sound
