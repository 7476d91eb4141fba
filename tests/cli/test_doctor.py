"""``convolt doctor``: backends, and the table of CUDA kernels."""

import json
import sys

import pytest

import convolt
from convolt.cli import main
from convolt.kernels.cpu import machine, thread_count
from convolt.kernels.cuda import compile as compiler
from convolt.kernels.cuda.compile import ARCHS
from convolt.kernels.cuda.launch import Kernel

SOURCE = """
extern "C" __global__ void sound(float* x) { x[threadIdx.x] = LANES; }
extern "C" __global__ void stack(float* x, int n) {
  float local[40];
  for (int i = 0; i < n; ++i) local[i] = x[i];
  x[0] = local[n];
}
"""
COLUMNS = [
    "kernel",
    "file",
    "arch",
    "constants",
    "registers",
    "spills",
    "stack_bytes",
    "shared_bytes",
    "occupancy",
]


@pytest.fixture
def doctor(capsys, monkeypatch):
    """Run the command in this process: (exit code, standard output, standard error)."""
    monkeypatch.delenv("CONVOLT_DEBUG", raising=False)

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main(["doctor", *arguments])
        return exit_.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """Replace the package's kernels; no need to compile them all here."""
    try:
        compiler.nvrtc_version()
    except RuntimeError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("CONVOLT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "op").mkdir()
    (tmp_path / "op" / "op.cu").write_text(SOURCE)
    found = []
    monkeypatch.setattr("convolt.kernels.cuda.table.KERNELS", tmp_path)
    monkeypatch.setattr("convolt.kernels.cuda.table.all_kernels", lambda: found)

    def add(entry, **constants):
        file = str(tmp_path / "op" / "on_cuda.py")
        found.append(Kernel(file, "op.cu", entry, block=64, **constants))

    return add


def test_the_table_has_a_row_for_each_kernel_arch_and_set_of_constants(doctor, kernels):
    kernels("sound", LANES=(1, 2))
    code, out, err = doctor("--kernels")
    assert (code, err) == (0, "")
    header, *rows = (line.split() for line in out.splitlines())
    assert header == COLUMNS
    assert len(rows) == 2 * len(ARCHS)
    code, out, _ = doctor("--kernels", "--json")
    assert code == 0
    found = json.loads(out)
    assert [row["arch"] for row in found] == list(ARCHS) * 2
    for row in found:
        assert row.keys() == {*COLUMNS, "error"}
        assert row["constants"] in ({"BLOCK": "64", "LANES": "1"}, {"BLOCK": "64", "LANES": "2"})
        assert row["registers"] > 0
        assert (row["kernel"], row["file"]) == ("sound", "op/op.cu")
        assert (row["spills"], row["stack_bytes"], row["shared_bytes"]) == (0, 0, 0)
        assert row["occupancy"] == 100
        assert row["error"] is None


def test_archs_may_be_chosen(doctor, kernels):
    kernels("sound", LANES=1)
    _, out, _ = doctor("--kernels", "--json", "--arch", "sm_80", "--arch", "sm_90a")
    assert [row["arch"] for row in json.loads(out)] == ["sm_80", "sm_90a"]


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_stack_frame_exits_with_1_and_is_named(doctor, kernels, as_json):
    kernels("sound", LANES=1)
    kernels("stack", LANES=1)
    code, out, err = doctor("--kernels", "--arch", "sm_80", *as_json)
    assert code == 1
    assert "stack (op/op.cu, sm_80, BLOCK=64 LANES=1): " in err
    assert "160 of stack" in err
    assert len(err.splitlines()) == 1
    assert "sound" in out


def test_a_kernel_that_does_not_compile_exits_with_1_and_says_where(doctor, kernels):
    kernels("sound", LANES="float32")
    code, out, err = doctor("--kernels", "--arch", "sm_80")
    assert code == 1
    assert "op.cu(2): error" in err
    assert out.splitlines()[1].split()[-5:] == ["-"] * 5


def test_without_nvrtc_it_says_what_to_install(doctor, kernels, monkeypatch):
    kernels("sound", LANES=1)
    for module in ("cupy", "cupy.cuda"):
        monkeypatch.setitem(sys.modules, module, None)
    code, out, err = doctor("--kernels")
    assert (code, out) == (1, "")
    assert "NVRTC" in err
    assert "pip install 'convolt[cuda-compile]'" in err


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--kernels", "--arch", "sm_60"), "sm_75, sm_80, sm_90a, sm_100a"),
        (("--arch", "sm_80"), "--arch goes with --kernels"),
    ],
)
def test_a_wrong_arch_exits_with_2(doctor, arguments, fault):
    code, out, err = doctor(*arguments)
    assert (code, out) == (2, "")
    assert fault in err


def test_the_compiler_and_the_cache_are_shown(doctor, tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOLT_CACHE_DIR", str(tmp_path))
    with convolt.use_backend("numpy"):
        report = json.loads(doctor("--json")[1])
        text = doctor()[1]
    assert report["cache"] == str(tmp_path)
    assert (report["nvrtc"]["version"] is None) == (report["nvrtc"]["why_not"] is not None)
    assert f"nvrtc: {report['nvrtc']['version'] or report['nvrtc']['why_not']}" in text


def test_the_cpu_its_threads_and_why(doctor, monkeypatch):
    monkeypatch.setattr(thread_count, "_count", None)
    monkeypatch.setenv("CONVOLT_NUM_THREADS", "3")
    code, out, _ = doctor("--json")
    assert code == 0
    cpu = json.loads(out)["cpu"]
    assert (cpu["threads"], cpu["why_threads"]) == (3, "CONVOLT_NUM_THREADS asks for it")
    assert cpu["name"] == machine.cpu_name()
    assert cpu["vector_bytes"] == machine.vector_bytes()
    assert cpu["cache_bytes"].keys() == {"l1", "l2", "l3"}
    convolt.set_num_threads(2)
    _, out, _ = doctor()
    assert "threads: 2: set_num_threads asks for it\n" in out
    assert f"cpu: {cpu['name']}, {cpu['vector_registers']} registers of " in out


@pytest.mark.parametrize(
    ("cold", "words"), [(True, "cold: the next run compiles"), (False, "warm")]
)
def test_whether_the_cpu_kernels_are_compiled(doctor, monkeypatch, cold, words):
    monkeypatch.setattr("convolt.kernels.cpu.cache.is_cold", lambda: cold)
    _, out, _ = doctor()
    assert f"(CPU kernels: {words})\n" in out


def test_a_wrong_number_of_threads_is_reported(doctor, monkeypatch):
    monkeypatch.setattr(thread_count, "_count", None)
    monkeypatch.setenv("CONVOLT_NUM_THREADS", "many")
    code, out, _ = doctor()
    assert code == 2
    assert "threads: CONVOLT_NUM_THREADS=many: the number of threads must be from 1 to 256" in out
