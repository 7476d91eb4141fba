import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from sass import disassemble

from convolt.kernels.cuda import compile as compiler
from convolt.kernels.cuda.compile import ARCHS, CompileError, Resources, arch_of, cache_dir, cubin
from convolt.kernels.cuda.signature import SourceError, read

SOURCE = """#include "twice.cuh"
extern "C" __global__ void __launch_bounds__(BLOCK) fill(float* y, float value) {
  __shared__ float tile[BLOCK];
  tile[threadIdx.x] = twice(value);
  __syncthreads();
  y[threadIdx.x] = tile[BLOCK - 1 - threadIdx.x];
}
"""
HEADER = "__device__ inline float twice(float v) { return 2 * v; }\n"
STACK = """
extern "C" __global__ void modest(float* x) { x[0] = 1; }
extern "C" __global__ void wasteful(float* x, int n) {
  float local[40];
  for (int i = 0; i < n; ++i) local[i] = x[i];
  x[0] = local[n];
}
extern "C" __global__ void __launch_bounds__(1024, 2) crowded(float* x) {
  float local[48];
#pragma unroll
  for (int i = 0; i < 48; ++i) local[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 48; ++i) x[i * 1024 + threadIdx.x] = local[i] * local[(i * 7 + 5) % 48];
}
"""
DEFINES = {"BLOCK": "128"}


@pytest.fixture(scope="module", autouse=True)
def _nvrtc():
    try:
        compiler.nvrtc_version()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A .cu file, and an empty cache."""
    monkeypatch.setenv("CONVOLT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "twice.cuh").write_text(HEADER)
    path = tmp_path / "source" / "fill.cu"
    path.write_text(SOURCE)
    read.cache_clear()
    return path


@pytest.fixture
def compilations(monkeypatch):
    """The archs of what was not in the cache."""
    done = []
    real = compiler._compile

    def counting(nvrtc, source, defines, arch):
        done.append(arch)
        return real(nvrtc, source, defines, arch)

    monkeypatch.setattr(compiler, "_compile", counting)
    return done


@pytest.mark.parametrize("arch", ARCHS)
def test_a_source_becomes_a_cubin_for_any_arch_without_a_gpu(kernel, arch):
    compiled = cubin(kernel, DEFINES, arch)
    assert compiled.code.startswith(b"\x7fELF")
    program_headers, section_headers = struct.unpack_from("<QQ", compiled.code, 32)
    _, count, _, sections = struct.unpack_from("<HHHH", compiled.code, 54)
    end = max(program_headers + 56 * count, section_headers + 64 * sections)
    assert len(compiled.code) >= end  # nothing is cut off
    assert compiled.resources.keys() == {"fill"}
    taken = compiled.resources["fill"]
    assert 0 < taken.registers <= 32
    assert taken == Resources(taken.registers, spill_bytes=0, stack_bytes=0, shared_bytes=512)


def test_the_log_tells_spills_and_stack_of_each_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOLT_CACHE_DIR", str(tmp_path))
    path = tmp_path / "stack.cu"
    path.write_text(STACK)
    taken = cubin(path, {}, "sm_80").resources
    assert taken.keys() == {"modest", "wasteful", "crowded"}
    assert (taken["modest"].spill_bytes, taken["modest"].stack_bytes) == (0, 0)
    assert (taken["wasteful"].spill_bytes, taken["wasteful"].stack_bytes) == (0, 160)
    assert taken["crowded"].registers <= 32
    assert taken["crowded"].spill_bytes > 0


def test_what_was_compiled_is_in_the_cache(kernel, compilations):
    first = cubin(kernel, DEFINES, "sm_80")
    assert cubin(kernel, DEFINES, "sm_80") == first
    assert compilations == ["sm_80"]


def test_a_second_process_compiles_nothing(kernel):
    program = (
        "import sys; from pathlib import Path; from convolt.kernels.cuda import compile\n"
        "if sys.argv[2] == 'broken': compile._compile = None\n"
        f"print(len(compile.cubin(Path(sys.argv[1]), {DEFINES}, 'sm_90a').code))"
    )

    def run(state):
        command = [sys.executable, "-c", program, kernel, state]
        return subprocess.run(command, capture_output=True, text=True)

    assert run("broken").returncode != 0
    first, second = run("whole"), run("broken")
    assert first.returncode == second.returncode == 0, second.stderr
    assert first.stdout == second.stdout


def change_source(path):
    path.write_text(SOURCE.replace("value)", "value + 1)"))


def change_header(path):
    (path.parent / "twice.cuh").write_text(HEADER.replace("2", "3"))


def change_version(path):
    del path
    return {"version": (1, 2)}


@pytest.mark.parametrize(
    "change",
    [
        change_source,
        change_header,
        change_version,
        lambda _: {"arch": "sm_90a"},
        lambda _: {"defines": {"BLOCK": "64"}},
        lambda _: {"defines": {"BLOCK": "128", "MORE": "1"}},
    ],
    ids=["source", "header", "version", "arch", "constant", "more constants"],
)
def test_all_that_a_cubin_depends_on_is_in_its_name(kernel, change):
    def key(arch="sm_80", defines=DEFINES, version=(13, 0)):
        read.cache_clear()
        return compiler._key(read(kernel), defines, arch, version)

    before = key()
    assert key() == before
    changes = change(kernel) or {}
    assert key(**changes) != before


def test_options_are_in_the_name(kernel, monkeypatch):
    before = compiler._key(read(kernel), DEFINES, "sm_80", (13, 0))
    monkeypatch.setattr(compiler, "_OPTIONS", ("--std=c++20",))
    assert compiler._key(read(kernel), DEFINES, "sm_80", (13, 0)) != before


def test_where_the_sources_lie_is_not_in_the_name(kernel, tmp_path):
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in kernel.parent.iterdir():
        (moved / file.name).write_text(file.read_text())
    keys = {
        compiler._key(read(p), DEFINES, "sm_80", (13, 0)) for p in (kernel, moved / kernel.name)
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-1], lambda b: b"", lambda b: b[:40] + b"?" + b[41:], lambda b: b + b"\0"],
    ids=["cut", "empty", "changed", "longer"],
)
def test_a_damaged_entry_is_compiled_again(kernel, compilations, damage):
    whole = cubin(kernel, DEFINES, "sm_80")
    (entry,) = cache_dir().iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert cubin(kernel, DEFINES, "sm_80") == whole
    assert len(compilations) == 2
    assert cubin(kernel, DEFINES, "sm_80") == whole
    assert len(compilations) == 2


def test_a_header_edited_after_it_was_read_leaves_nothing_in_the_cache(kernel, compilations):
    read(kernel)
    change_header(kernel)
    cubin(kernel, DEFINES, "sm_80")
    assert not cache_dir().exists()
    read.cache_clear()
    cubin(kernel, DEFINES, "sm_80")
    assert len(list(cache_dir().iterdir())) == 1
    assert len(compilations) == 2


def test_instructions_know_their_lines(kernel):
    """For compute-sanitizer and profilers."""
    code = cubin(kernel, DEFINES, "sm_80").code
    assert b".debug_line" in code
    assert b"fill.cu" in code


def test_an_entry_is_there_whole_or_not_at_all(kernel, monkeypatch):
    def interrupted(*_paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(compiler.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cubin(kernel, DEFINES, "sm_80")
    assert not list(cache_dir().iterdir())


def test_threads_may_compile_at_once(kernel):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cubin(kernel, DEFINES, "sm_80"), range(8)))
    assert all(f == found[0] for f in found)
    assert len(list(cache_dir().iterdir())) == 1


def test_a_cache_that_cannot_be_written_says_so(kernel, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONVOLT_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(RuntimeError, match=r"cannot be kept in .*file.*set CONVOLT_CACHE_DIR"):
        cubin(kernel, DEFINES, "sm_80")


def test_an_error_of_the_compiler_has_file_line_and_its_words(kernel):
    kernel.write_text(SOURCE.replace("threadIdx.x] = twice", "threadIdx.y] = thrice"))
    read.cache_clear()
    with pytest.raises(CompileError) as caught:
        cubin(kernel, DEFINES, "sm_90a")
    message = str(caught.value)
    assert "fill.cu does not compile for sm_90a with -DBLOCK=128" in message
    assert f'{kernel}(4): error: identifier "thrice" is undefined' in message
    assert not cache_dir().exists()


def test_an_error_in_a_header_names_the_header(kernel):
    (kernel.parent / "twice.cuh").write_text("#error odd\n")
    with pytest.raises(CompileError, match=r"twice\.cuh\(1\): .*odd"):
        cubin(kernel, DEFINES, "sm_80")


def test_an_arch_that_there_is_not_is_an_error(kernel):
    with pytest.raises(CompileError, match=r"does not compile for sm_1.*INVALID_OPTION"):
        cubin(kernel, {}, "sm_1")


def test_a_missing_source_is_an_error(kernel):
    with pytest.raises(SourceError, match=r"cannot read .*gone\.cu"):
        cubin(kernel.parent / "gone.cu", {}, "sm_80")


def test_no_number_is_flushed_to_zero(tmp_path, monkeypatch):
    """Denormals stay: CuPy's own compilation would give FMUL.FTZ."""
    monkeypatch.setenv("CONVOLT_CACHE_DIR", str(tmp_path))
    source = tmp_path / "multiply.cu"
    source.write_text('extern "C" __global__ void multiply(float* x) { x[0] = x[1] * x[2]; }')
    instructions = disassemble(cubin(source, {}, "sm_80").code, tmp_path)
    assert "FMUL" in instructions
    assert "FTZ" not in instructions


@pytest.mark.parametrize(
    ("capability", "arch"),
    [
        ("75", "sm_75"),
        ("80", "sm_80"),
        ("86", "sm_86"),
        ("89", "sm_89"),
        ("90", "sm_90a"),
        ("100", "sm_100a"),
        ("120", "sm_120a"),
    ],
)
def test_from_nine_on_the_arch_has_its_own_instructions(capability, arch):
    assert arch_of(capability) == arch


def test_a_missing_nvrtc_says_what_to_install(kernel, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    with pytest.raises(RuntimeError, match=r"NVRTC.*pip install 'convolt\[cuda-compile\]'"):
        cubin(kernel, DEFINES, "sm_80")
