import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from convolt.kernels.backend import why_not
from convolt.kernels.cuda import compile as compiler
from convolt.kernels.cuda import launch as launcher
from convolt.kernels.cuda.launch import FLOAT_TYPES, Kernel, ceil_div

SOURCE = """
#ifndef STORAGE
#define STORAGE float
#endif
typedef STORAGE Storage;
typedef INDEX Index;
struct RowSize { int n; unsigned pitch; long long stride[2]; double scale; };

// Traffic   reads = STORAGE_BYTES * n * (1 + FLIP)
//           writes = STORAGE_BYTES * n + INDEX_BYTES * GRID
extern "C" __global__ void rows_forward(const Storage* x, Storage* y, Index* index, RowSize size,
                                        unsigned char level, Real alpha, bool flag) {
  if (threadIdx.x < size.n && blockIdx.x == 0) y[threadIdx.x] = x[threadIdx.x] * size.scale;
}
"""


@dataclass(frozen=True)
class RowSize:
    n: int = 4
    pitch: int = 8
    stride: tuple[int, int] = (1, -2)
    scale: float = 2.0


@pytest.fixture
def kernel(tmp_path):
    text = SOURCE.replace("Real", "float")
    (tmp_path / "rows.cu").write_text(text)
    return Kernel(
        str(tmp_path / "on_cuda.py"),
        "rows.cu",
        "rows_forward",
        block=32,
        STORAGE=FLOAT_TYPES,
        INDEX=("uint8", "int32"),
        FLIP=(False, True),
        LANES=4,
    )


CHOICE = {"STORAGE": "float32", "INDEX": np.uint8, "FLIP": True}


def call(kernel, grid=1, *, replace=None, constants=None, **options):
    """Launch with sound arguments, of which ``replace`` (name -> value) changes some."""
    arguments = {
        "x": np.ones(4, np.float32),
        "y": np.zeros(4, np.float32),
        "index": np.zeros(4, np.uint8),
        "size": RowSize(),
        "level": 3,
        "alpha": 0.5,
        "flag": True,
    } | (replace or {})
    kernel.launch(grid, *arguments.values(), **{**CHOICE, **(constants or {})}, **options)
    return arguments


@pytest.fixture
def runs(monkeypatch):
    """What reaches the emulator."""
    calls = []
    monkeypatch.setattr("convolt.kernels.emulator.run.run", lambda *args: calls.append(args))
    return calls


def test_a_launch_hands_over_exactly_the_bytes_that_c_expects(kernel, runs):
    arguments = call(kernel, (3, 2), shared_bytes=64)
    ((source, defines, signature, grid, block, shared_bytes, packed),) = runs
    assert (source.path, signature.entry) == (kernel.path, "rows_forward")
    assert defines == {
        "BLOCK": "32",
        "STORAGE": "float",
        "INDEX": "unsigned char",
        "FLIP": "1",
        "LANES": "4",
    }
    assert (grid, block, shared_bytes) == ((3, 2, 1), (32, 1, 1), 64)
    assert [a.parameter.name for a in packed] == list(arguments)
    assert all(a.value is arguments[a.parameter.name] for a in packed[:3])
    size, level, alpha, flag = (a.value for a in packed[3:])
    expected = np.zeros((), np.dtype("i4, u4, (2,)i8, f8", align=True))
    expected[()] = (4, 8, (1, -2), 2.0)
    assert size.tobytes() == expected.tobytes()
    assert (level.dtype, alpha.dtype, flag.dtype) == (np.uint8, np.float32, np.bool_)
    assert (level, alpha, flag) == (3, 0.5, True)


def test_it_runs_on_the_emulator(kernel):
    if reason := why_not("emulator"):
        pytest.skip(reason)
    arguments = call(kernel, replace={"x": np.arange(4, dtype=np.float32)})
    np.testing.assert_array_equal(arguments["y"], [0, 2, 4, 6])


def test_a_struct_may_be_a_dict_and_a_pointer_null(kernel, runs):
    size = {"n": 1, "pitch": 2, "stride": [3, 4], "scale": 5, "more": None}
    call(kernel, replace={"size": size, "index": None, "flag": 0})
    packed = runs[0][-1]
    assert packed[2].value is None
    assert packed[3].value["stride"].tolist() == [3, 4]


def test_a_grid_without_blocks_runs_nothing_but_is_checked(kernel, runs):
    call(kernel, 0)
    call(kernel, (4, 0, 1))
    assert not runs
    with pytest.raises(TypeError, match="takes an int"):
        call(kernel, 0, replace={"level": 0.5})


@pytest.mark.parametrize(
    ("replace", "error", "fault"),
    [
        ({"x": np.ones(4)}, TypeError, r"const float\* x takes an array of float32, got float64"),
        ({"x": [1.0]}, TypeError, r"const float\* x takes a NumPy or CuPy array or None, got list"),
        ({"index": np.zeros(4, np.int8)}, TypeError, r"unsigned char\* index .* got int8"),
        ({"level": 256}, ValueError, "level: 256 does not fit uint8"),
        ({"level": -1}, ValueError, "level: -1 does not fit uint8"),
        ({"level": 1.0}, TypeError, "level takes an int, got 1.0"),
        ({"level": np.ones(2, np.int32)}, TypeError, "level takes an int"),
        ({"alpha": "1"}, TypeError, "alpha takes a number, got '1'"),
        ({"flag": 2}, ValueError, "flag: 2 does not fit bool"),
        ({"alpha": 1e39}, ValueError, r"alpha: 1e\+39 does not fit float32"),
        ({"flag": 2.5}, TypeError, "flag takes an int"),
        ({"size": RowSize(n=2**31)}, ValueError, r"size\.n: 2147483648 does not fit int32"),
        ({"size": RowSize(pitch=-1)}, ValueError, r"size\.pitch: -1 does not fit uint32"),
        ({"size": RowSize(stride=(1,))}, ValueError, r"size\.stride takes 2 values, got \(1,\)"),
        ({"size": RowSize(stride=(1, 2.0))}, TypeError, r"size\.stride\[1\] takes an int"),
        ({"size": SimpleNamespace(n=1)}, TypeError, "size has a field 'pitch', which .* lacks"),
        ({"size": {"n": 1, "pitch": 1}}, TypeError, "size has a field 'stride', which .* lacks"),
        ({"more": 1}, TypeError, r"8 arguments given, 7 needed: const float\* x, float\* y, "),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_arguments_are_checked_before_anything_runs(kernel, runs, replace, error, fault):
    with pytest.raises(error, match=rf"rows_forward .*rows\.cu.*{fault}"):
        call(kernel, replace=replace)
    assert not runs
    call(kernel)
    assert len(runs) == 1


def test_infinities_and_nan_are_numbers(kernel, runs):
    call(kernel, replace={"alpha": np.inf})
    call(kernel, replace={"alpha": float("nan")})
    assert [np.isfinite(r[-1][5].value) for r in runs] == [False, False]


def test_a_result_must_be_writable_and_an_input_need_not(kernel, runs):
    frozen = np.zeros(4, np.float32)
    frozen.flags.writeable = False
    call(kernel, replace={"x": frozen})
    with pytest.raises(ValueError, match="y is written to, but the array is read-only"):
        call(kernel, replace={"y": frozen})


def test_a_kernel_without_an_array_has_nowhere_to_run(kernel):
    with pytest.raises(TypeError, match="no argument is an array"):
        call(kernel, replace={"x": None, "y": None, "index": None})


@pytest.mark.parametrize(
    ("grid", "error"),
    [
        (-1, ValueError),
        (2**31, ValueError),
        ((1, 65536), ValueError),
        ((1, 1, 65536), ValueError),
        ((), ValueError),
        ((1, 1, 1, 1), ValueError),
        (1.0, TypeError),
    ],
)
def test_the_grid_is_checked(kernel, runs, grid, error):
    with pytest.raises(error, match=r"rows_forward.*grid"):
        call(kernel, grid)
    call(kernel, (2**31 - 1, 65535, np.int64(65535)))
    assert runs[0][3] == (2**31 - 1, 65535, 65535)


@pytest.mark.parametrize(
    ("constants", "error", "fault"),
    [
        ({"STORAGE": np.float16}, TypeError, "STORAGE must be an int or a dtype"),
        ({"STORAGE": "int32"}, ValueError, "STORAGE cannot be int; it is one of float, double, bf"),
        ({"FLIP": 2}, ValueError, "FLIP cannot be 2; it is one of 0, 1"),
        ({"FLIP": [1]}, TypeError, "FLIP must be an int or a dtype"),
        ({"WIDTH": 2}, TypeError, "unknown constant WIDTH; a launch chooses STORAGE, INDEX, FLIP"),
        ({"LANES": 4}, TypeError, "unknown constant LANES"),
        ({"BLOCK": 32}, TypeError, "unknown constant BLOCK"),
    ],
)
def test_constants_are_checked(kernel, runs, constants, error, fault):
    with pytest.raises(error, match=fault):
        call(kernel, constants=constants)
    assert not runs


def test_a_missing_constant_is_named(kernel):
    with pytest.raises(TypeError, match="the constant INDEX is missing; it is one of unsigned ch"):
        kernel.launch(1, STORAGE="float32", FLIP=0)


@pytest.mark.parametrize(
    "value",
    ["float32", np.float32, np.dtype(np.float32), "float"],
    ids=["name", "type", "dtype", "C"],
)
def test_a_dtype_may_be_given_in_any_form(kernel, value):
    assert kernel.defines(**CHOICE | {"STORAGE": value})["STORAGE"] == "float"


def test_bfloat16_is_a_dtype_like_others(kernel, runs):
    x = np.ones(4, ml_dtypes.bfloat16)
    call(kernel, replace={"x": x, "y": x.copy()}, constants={"STORAGE": x.dtype})
    assert runs[0][1]["STORAGE"] == "bfloat16"
    with pytest.raises(TypeError, match=r"bfloat16\* y takes an array of bfloat16, got float32"):
        call(kernel, replace={"x": x}, constants={"STORAGE": x.dtype})


def test_all_combinations_are_those_that_a_launch_can_ask_for(kernel):
    combinations = list(kernel.combinations())
    assert len(combinations) == 3 * 2 * 2
    assert all(c["BLOCK"] == "32" and c["LANES"] == "4" for c in combinations)
    assert kernel.defines(**CHOICE) in combinations


@pytest.mark.parametrize(
    ("options", "error", "fault"),
    [
        ({"block": 0}, ValueError, "block must be 1 to 1024 threads, got 0"),
        ({"block": 1025}, ValueError, "block must be"),
        ({"block": 32, "BLOCK": 64}, ValueError, "BLOCK is set by block="),
        ({"block": 32, "STORAGE": "text"}, TypeError, "STORAGE must be an int or a dtype"),
        ({"block": 32, "N": (1, 2.5)}, TypeError, "N must be an int or a dtype, got 2.5"),
    ],
)
def test_a_kernel_checks_what_it_is_made_of(options, error, fault):
    with pytest.raises(error, match=f"entry: .*{fault}"):
        Kernel(__file__, "nothing.cu", "entry", **options)


def test_making_a_kernel_reads_nothing(tmp_path):
    kernel = Kernel(str(tmp_path / "on_cuda.py"), "gone.cu", "entry", block=32)
    with pytest.raises(ValueError, match=r"cannot read .*gone\.cu"):
        kernel.launch(1)


def test_traffic_of_a_launch(kernel):
    arguments = np.ones(9, np.float32), np.ones(9, np.float32), None, RowSize(n=9), 0, 0.0, False
    assert kernel.traffic((5, 2), *arguments, **CHOICE) == (4 * 9 * 2, 4 * 9 + 1 * 10)


@pytest.mark.parametrize(("a", "b", "parts"), [(0, 4, 0), (1, 4, 1), (4, 4, 1), (5, 4, 2)])
def test_ceil_div(a, b, parts):
    assert ceil_div(a, b) == parts


# ---- With CuPy arrays: a stand-in for what launch.py asks of CuPy, since most machines have no GPU


class FakeArray:
    __module__ = "cupy"

    def __init__(self, dtype, pointer, shape=(4,), gpu=0):
        self.dtype = np.dtype(dtype)
        self.data = SimpleNamespace(ptr=pointer, device_id=gpu)
        self.shape, self.strides = shape, (self.dtype.itemsize,)


class FakeCupy(ModuleType):
    """Records launches; ``current`` is the current GPU."""

    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("cupy")
        self.current, self.launches, self.loaded, self.attributes = 0, [], [], []
        self.failure = None
        fake = self

        class Device:
            def __init__(self):
                self.id, self.compute_capability = fake.current, ("75", "90", "100")[fake.current]

        class Module:
            def load(self, code):
                fake.loaded.append(code)

            def get_function(self, name):
                function = SimpleNamespace(name=name, gpu=fake.current)

                def launch(grid, block, arguments, *, shared_mem):
                    if fake.failure:
                        raise fake.failure
                    fake.launches.append((name, grid, block, arguments, shared_mem))

                launch.ptr = id(function)
                return launch

        self.cuda = SimpleNamespace(
            Device=Device,
            function=SimpleNamespace(Module=Module),
            driver=SimpleNamespace(
                CUDADriverError=self.Error,
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
                funcSetAttribute=lambda *args: self.attributes.append(args),
            ),
            runtime=SimpleNamespace(CUDARuntimeError=self.Error),
        )


@pytest.fixture
def cupy(monkeypatch):
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(launcher, "_modules", {})
    monkeypatch.setattr(
        compiler, "cubin", lambda path, defines, arch: SimpleNamespace(code=(path, defines, arch))
    )
    return fake


def on_gpu(gpu=0):
    x, y = FakeArray("f4", 0x7000, gpu=gpu), FakeArray("f4", 0x8000, gpu=gpu)
    return {"x": x, "y": y, "index": None}


ON_GPU = on_gpu()


def test_a_launch_on_a_gpu_passes_pointers_and_values_as_bytes(kernel, cupy):
    call(kernel, (3, 2), replace=ON_GPU, shared_bytes=128)
    ((name, grid, block, arguments, shared_bytes),) = cupy.launches
    assert (name, grid, block, shared_bytes) == ("rows_forward", (3, 2, 1), (32, 1, 1), 128)
    assert all(isinstance(a, np.ndarray) and a.ndim == 0 for a in arguments)  # CuPy: by value
    assert [a.itemsize for a in arguments] == [8, 8, 8, 32, 1, 4, 1]
    assert [int(a) for a in arguments[:3]] == [0x7000, 0x8000, 0]


def test_a_module_is_loaded_once_for_each_gpu_and_set_of_constants(kernel, cupy):
    call(kernel, replace=ON_GPU)
    call(kernel, 2, replace=ON_GPU)
    assert [code[2] for code in cupy.loaded] == ["sm_75"]
    assert cupy.loaded[0][:2] == (kernel.path, kernel.defines(**CHOICE))
    call(kernel, replace=ON_GPU, constants={"FLIP": False})
    assert len(cupy.loaded) == 2
    cupy.current = 1
    call(kernel, replace=on_gpu(1))
    cupy.current = 2
    call(kernel, replace=on_gpu(2))
    assert [code[2] for code in cupy.loaded[2:]] == ["sm_90a", "sm_100a"]
    cupy.current = 0
    call(kernel, replace=ON_GPU)
    assert len(cupy.loaded) == 4


def test_kernels_of_one_file_share_its_module(kernel, cupy):
    twin = Kernel(
        str(kernel.path),
        "rows.cu",
        "rows_forward",
        block=32,
        LANES=4,
        FLIP=(0, 1),
        INDEX=("uint8", "int32"),
        STORAGE=FLOAT_TYPES,
    )
    call(kernel, replace=ON_GPU)
    call(twin, replace=ON_GPU)
    assert len(cupy.loaded) == 1


def test_dynamic_shared_memory_is_asked_for_once(kernel, cupy):
    call(kernel, replace=ON_GPU)
    assert not cupy.attributes
    for shared_bytes in (64 * 1024, 64 * 1024, 60 * 1024, 96 * 1024):
        call(kernel, replace=ON_GPU, shared_bytes=shared_bytes)
    assert [a[1:] for a in cupy.attributes] == [(8, 64 * 1024), (8, 96 * 1024)]
    assert cupy.launches[-1][-1] == 96 * 1024


def test_a_launch_that_the_gpu_refuses_names_kernel_grid_and_sizes(kernel, cupy):
    cupy.failure = FakeCupy.Error("CUDA_ERROR_INVALID_VALUE: invalid argument")
    with pytest.raises(RuntimeError) as caught:
        call(kernel, (3, 2), replace=ON_GPU, shared_bytes=128)
    for part in (
        "rows_forward",
        str(kernel.path),
        "CUDA_ERROR_INVALID_VALUE",
        "grid (3, 2, 1)",
        "block 32",
        "128 bytes",
        "x=cupy float32(4,)",
        "index=None",
        "level=3",
        "'pitch': 8, 'stride': [1, -2]",
        "'FLIP': '1'",
    ):
        assert part in str(caught.value)


def test_arrays_of_another_gpu_are_refused(kernel, cupy):
    cupy.current = 1
    with pytest.raises(ValueError, match=r"not on the current GPU, 1: x=cupy float32\(4,\)$"):
        call(kernel, replace={**on_gpu(1), "x": ON_GPU["x"]})
    assert not cupy.launches


def test_numpy_and_cupy_arrays_do_not_mix(kernel, cupy):
    with pytest.raises(TypeError, match=r"mixed with CuPy arrays: x=cupy float32.*y=numpy float32"):
        call(kernel, replace={"x": ON_GPU["x"]})
    assert not cupy.launches
