import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from convolt.kernels.backend import why_not


@pytest.fixture(scope="module")
def phases(load):
    return load("phases")


@pytest.fixture
def check(phases, tmp_path, monkeypatch):
    """Return ``check(*phases, seconds=...)``: run them and return what the report's files say."""
    monkeypatch.setattr(phases, "GRACE_S", 0.5)
    monkeypatch.setattr(phases, "LEAST_S", 0.6)

    def run(*parts, seconds=30.0):
        facts = {"title": "a check", "commit": "abc"}
        report = phases.Report(tmp_path / "out", "check", facts, parts)
        start_s = time.monotonic()
        phases.run_phases(parts, report, start_s + seconds, tmp_path)
        read = [(tmp_path / "out" / f"check.{kind}").read_text() for kind in ("json", "md", "log")]
        return SimpleNamespace(
            phases=json.loads(read[0])["phases"],
            data=json.loads(read[0]),
            markdown=read[1],
            log=read[2],
            green=report.green,
            seconds=time.monotonic() - start_s,
        )

    return run


def python(script, *words):
    return (sys.executable, "-c", script, *map(str, words))


def one(phases, name, *commands, share=1, **options):
    """A phase of commands that are named step0, step1, ..."""
    steps = [phases.Step(f"step{i}", command) for i, command in enumerate(commands)]
    return phases.Phase(name, f"what {name} shows", share, lambda: steps, **options)


def test_what_passes_is_green(phases, check):
    def conclude(outcomes):
        table = [{"op": "sum", "rate": 1234.5678}]
        return {"speed": 2.5, "table": table, "said": outcomes[0].tail[-1]}, []

    found = check(
        one(phases, "first", python("print('hello')"), conclude=conclude),
        one(phases, "second", python("import os; print(os.getcwd())")),
    )
    assert found.green
    assert found.data["finished"]
    assert [p["status"] for p in found.phases.values()] == ["passed", "passed"]
    assert found.phases["first"]["summary"]["said"] == "hello"
    assert found.phases["first"]["log_tail"] == ["hello"]
    assert found.phases["first"]["seconds"] < 20
    assert "[step0] hello\n" in found.log
    assert "commit: abc" in found.markdown
    assert "| first | passed |" in found.markdown
    assert "speed 2.5" in found.markdown
    assert "| sum | 1235 |" in found.markdown


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("print('why'); raise SystemExit(3)", "step0: status 3, and last said: why"),
        ("import os; os.abort()", "step0: status -6, and last said: nothing"),
    ],
)
def test_a_command_that_fails_fails_its_phase_and_the_next_one_runs(phases, check, script, said):
    found = check(one(phases, "bad", python(script)), one(phases, "good", python("")))
    assert not found.green
    assert found.phases["bad"]["status"] == "failed"
    assert found.phases["bad"]["faults"] == [said]
    assert said in found.markdown
    assert found.phases["good"]["status"] == "passed"


def test_a_command_that_is_not_there_fails_its_phase(phases, check):
    found = check(one(phases, "bad", ("/no/such/program",)), one(phases, "good", python("")))
    assert found.phases["bad"]["status"] == "failed"
    assert "did not start" in found.phases["bad"]["reason"]
    assert "/no/such/program" in found.phases["bad"]["reason"]
    assert found.phases["good"]["status"] == "passed"


def test_numbers_that_are_wrong_or_missing_fail_a_phase(phases, check):
    found = check(
        one(phases, "wrong", python(""), conclude=lambda _: ({}, ["too slow"])),
        one(phases, "missing", python(""), conclude=lambda _: ({"a": {}["a"]}, [])),
        one(phases, "good", python("")),
    )
    assert found.phases["wrong"]["reason"] == "too slow"
    assert found.phases["missing"]["reason"] == "no results: KeyError: 'a'"
    assert [p["status"] for p in found.phases.values()] == ["failed", "failed", "passed"]


def test_what_cannot_run_here_is_skipped_with_the_reason(phases, check):
    def steps():
        raise phases.Skip("the tool is not installed")

    found = check(phases.Phase("tool", "a tool", 1, steps), one(phases, "good", python("")))
    assert found.green
    assert found.phases["tool"]["status"] == "skipped"
    assert "| tool | skipped | 0 | the tool is not installed |" in found.markdown


def test_nothing_runs_after_a_vital_phase_that_does_not_pass(phases, check):
    bad = one(phases, "device", python("raise SystemExit(1)"), vital=True)
    found = check(bad, one(phases, "next", python("print('ran')")))
    assert not found.green
    assert found.phases["next"]["status"] == "skipped"
    assert found.phases["next"]["reason"] == "the phase device did not pass"
    assert "ran" not in found.log


SLEEP = "import sys, time; print('started', flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);" + SLEEP


@pytest.mark.parametrize(
    ("script", "how"), [(SLEEP, "(interrupted)"), (STUBBORN, "(killed)")], ids=["sleep", "stubborn"]
)
def test_a_phase_that_takes_too_long_is_cut_off_and_the_next_one_runs(phases, check, script, how):
    slow = one(phases, "slow", python(script), python("print('never')"))
    found = check(slow, one(phases, "good", python("print('ran')")), seconds=6)
    assert found.seconds < 6
    assert not found.green
    assert found.phases["slow"]["status"] == "cut off"
    assert "step0" in found.phases["slow"]["reason"]
    assert found.phases["slow"]["log_tail"][-1] == how
    assert "started" in found.phases["slow"]["log_tail"]
    assert found.phases["good"]["status"] == "passed"


def test_commands_of_a_phase_share_its_time(phases, check):
    slow = one(phases, "slow", python(SLEEP), python("print('short')"), python(SLEEP))
    found = check(slow, seconds=4)
    assert found.phases["slow"]["cut_off"] == ["step0", "step2"]
    assert "[step1] short\n" in found.log


def test_without_time_nothing_is_started(phases, check):
    found = check(one(phases, "late", python("print('ran')")), seconds=0.1)
    assert found.phases["late"]["status"] == "cut off"
    assert found.phases["late"]["reason"] == "no time left for step0"
    assert "ran" not in found.log.replace("print('ran')", "")


def test_time_that_a_phase_leaves_over_goes_to_those_after_it(phases, check):
    found = check(*(one(phases, name, python("")) for name in "abc"), seconds=30)
    a, b, c = (found.phases[name]["budget_s"] for name in "abc")
    assert 9.5 < a <= 10
    assert a < b < c <= 30


def test_children_of_a_command_end_with_it(phases, check, tmp_path):
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open(sys.argv[1], 'w').write(str(child.pid))\n"
    )
    found = check(one(phases, "parent", python(script, tmp_path / "pid")))
    assert found.phases["parent"]["status"] == "passed"
    assert found.seconds < 20
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not is_running(pid):
            return
        time.sleep(0.05)
    pytest.fail("the child still runs")


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # ended, not yet waited for
    except FileNotFoundError:
        return False


def test_commands_may_run_at_once(phases, check, tmp_path):
    meet = (  # each waits until all have come
        "import pathlib, sys, time\n"
        "room = pathlib.Path(sys.argv[1])\n"
        "(room / sys.argv[2]).touch()\n"
        "while len(list(room.glob('here*'))) < 3: time.sleep(0.01)\n"
    )
    commands = [python(meet, tmp_path, f"here{i}") for i in range(3)]
    found = check(one(phases, "together", *commands, parallel=3))
    assert found.phases["together"]["status"] == "passed"


# Runs of pytest


TESTS = """
import time, pytest
def test_good(): pass
def test_bad(): assert 1 == 2, "one is not two"
def test_skipped(): pytest.skip("no")
@pytest.fixture
def broken(): raise RuntimeError("broken fixture")
def test_error(broken): pass
def test_slow(): time.sleep(60)
"""


def phase_of_tests(phases, tmp_path, *words):
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    junit = tmp_path / "it.xml"
    command = (sys.executable, "-m", "pytest", "-v", "test_it.py", f"--junitxml={junit}", *words)
    step = phases.Step("it", command, junit=junit, fine=(0, 5))
    return phases.Phase("tests", "tests", 1, lambda: [step])


def test_counts_come_from_pytest(phases, check, tmp_path):
    found = check(phase_of_tests(phases, tmp_path, "-k", "not slow"), seconds=60).phases["tests"]
    assert found["status"] == "failed"
    assert found["summary"] == {"tests_passed": 1, "tests_failed": 2, "tests_skipped": 1}
    assert any(f.startswith("test_it::test_bad: AssertionError: one is") for f in found["faults"])
    assert any("test_it::test_error" in f and "broken fixture" in f for f in found["faults"])


def test_tests_that_a_cut_off_run_has_done_are_counted(phases, check, tmp_path):
    found = check(phase_of_tests(phases, tmp_path, "-k", "slow or good"), seconds=10).phases[
        "tests"
    ]
    assert found["status"] == "cut off"
    assert found["summary"]["tests_passed"] == 1


def test_no_test_is_no_pass(phases, check, tmp_path):
    for words in (("-k", "nothing"), ("-k", "skipped")):
        found = check(phase_of_tests(phases, tmp_path, *words), seconds=60).phases["tests"]
        assert found["status"] == "failed"
        assert found["reason"] == "no test passed"


def test_a_test_that_failed_counts_though_the_run_was_cut_off(phases, check, tmp_path):
    junit = tmp_path / "it.xml"
    case = '<testcase classname="test_it" name="test_bad"><failure message="wrong" /></testcase>'
    script = f"import sys; open(sys.argv[1], 'w').write({case!r});" + SLEEP
    step = phases.Step("it", python(script, junit), junit=junit)
    found = check(phases.Phase("tests", "tests", 1, lambda: [step]), seconds=3).phases["tests"]
    assert found["status"] == "failed"
    assert found["faults"] == ["test_it::test_bad: wrong"]
    assert found["cut_off"] == ["it"]


# A run that is killed


SCRIPT = """
import sys, time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
spec = spec_from_file_location("phases", sys.argv[1])
phases = sys.modules["phases"] = module_from_spec(spec)
spec.loader.exec_module(phases)
def one(name, script):
    return phases.Phase(
        name, name, 1, lambda: [phases.Step(name, (sys.executable, "-c", script))]
    )
parts = [
    one("first", "print('done')"),
    one("second", "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"),
    one("third", ""),
]
report = phases.Report(Path(sys.argv[2]), "check", {"title": "a check"}, parts)
try:
    phases.run_phases(parts, report, time.monotonic() + 600, Path(sys.argv[2]))
except phases.Interrupted as reason:
    raise SystemExit(str(reason))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_killed_keeps_what_it_has(phases, tmp_path, number):
    command = python(SCRIPT, phases.__file__, tmp_path)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "check.log"
    for _ in range(1000):
        if log.exists() and "[second] pid " in log.read_text():
            break
        time.sleep(0.02)
    child = int(log.read_text().partition("[second] pid ")[2].split()[0])
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode != 0
    report = json.loads((tmp_path / "check.json").read_text())
    assert not report["finished"]
    statuses = [phase["status"] for phase in report["phases"].values()]
    if number == signal.SIGKILL:
        os.kill(child, signal.SIGKILL)  # nobody is left to do it
        assert statuses == ["passed", "running", "not reached"]
    else:
        assert statuses == ["passed", "cut off", "not reached"]
        assert f"interrupted by {number.name}" in report["phases"]["second"]["reason"]
        assert f"interrupted by {number.name}" in said
        assert not is_running(child)
    assert "| first | passed |" in (tmp_path / "check.md").read_text()


# The command


def test_without_a_gpu_the_check_fails_and_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = run("bench.gpu_check", "--output", str(tmp_path / "new"), "--phase", "parity")
    assert result.returncode == 1
    assert "without a GPU there is nothing to check" in result.stderr
    report = json.loads((tmp_path / "new" / "gpu_check.json").read_text())
    assert list(report["phases"]) == ["device", "parity"]
    assert report["phases"]["device"]["status"] == "failed"
    assert "no GPU can be used" in report["phases"]["device"]["reason"]
    assert report["phases"]["parity"]["status"] == "skipped"
    assert report["commit"]
    assert "no GPU can be used" in (tmp_path / "new" / "gpu_check.md").read_text()


def test_the_check_knows_its_phases(run, tmp_path):
    result = run("bench.gpu_check", "--output", str(tmp_path), "--phase", "prity")
    assert result.returncode == 2
    for name in ("device", "ptx", "families", "repeats", "convolutions", "steps", "tuner"):
        assert f"'{name}'" in result.stderr or name in result.stderr
    assert not list(tmp_path.iterdir())


def test_roofline_runs_on_the_emulator(run):
    if reason := why_not("emulator"):
        pytest.skip(reason)
    small = ("--elements", "512", "--matrix", "8", "--repeats", "1", "--json")
    result = run("bench.roofline", "--backend", "emulator", *small)
    assert result.returncode == 0, result.stderr
    rows = {row["op"]: row for row in json.loads(result.stdout)["results"]}
    assert rows["elementwise add"]["bytes"] == 3 * 512 * 4
    assert rows["relu"]["bytes"] == 2 * 512 * 4
    for row in rows.values():
        assert row["gigabytes_per_s"] == pytest.approx(row["bytes"] / row["ours_s"] / 1e9)


def test_roofline_is_about_the_kernels(run):
    result = run("bench.roofline", "--backend", "numpy")
    assert result.returncode == 1
    assert "cuda or emulator" in result.stderr


ON_CUPY = """
import json, sys
sys.path[:0] = ["tests", "."]
import pytest
import host_cupy
from bench import conv2d, conv2d_gpu, gpu, memory_bound, memory_case, problems, roofline
from bench import families, training_step
from convolt import use_backend
gpu.free_bytes = lambda: 1 << 30
with pytest.MonkeyPatch.context() as patch, host_cupy.installed(patch), use_backend("cuda"):
    problem, ceilings = problems.problems("lenet5", 1)[0], gpu.gpu()
    rows = [
        conv2d_gpu.measure(problem, verb, None, dtype, 1, ceilings)
        for verb in conv2d.VERBS
        for dtype in ("float32", "bfloat16")
    ]
    on = roofline.Operands(512, "float32")
    for prepare in roofline.OPS.values():
        call = prepare(on)
        with roofline.traffic() as moved:
            call()
        assert sum(moved) > 0
    on.copy()()
    for case, family in (("clipped", "wgmma"), ("odd_channels", "mma")):
        asked = next(families.problems(case, family))
        algorithm = families.algorithms(family, asked)[0]
        assert families.check_bits(asked, algorithm) is None
        assert families.check_repeats(asked, algorithm, 2) is None
    images = memory_case.Operands((2, 3, 6, 5), "float32")
    copy = memory_bound.gpu_copy(images)
    for name in memory_bound.OPS:
        assert memory_bound.measure(name, images, copy, None, 1)["gigabytes_per_s"] > 0
    weights = training_step.initial_weights("lenet5", "float32")
    batch = training_step.batch("lenet5", 1, "float32")
    loss = training_step.step_of_convolt("lenet5", weights, *batch)().item()
print(json.dumps({"verbs": [row["verb"] for row in rows], "loss": loss}))
"""


def test_benchmarks_take_cupy_arrays(repository):
    pytest.importorskip("cupy")
    if reason := why_not("emulator"):
        pytest.skip(reason)
    result = subprocess.run(
        python(ON_CUPY), cwd=repository, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["verbs"] == ["fprop"] * 2 + ["dgrad"] * 2 + ["wgrad"] * 2
    assert 2 < found["loss"] < 3  # about log 10


PHASES_ON_EMULATOR = """
import json, subprocess, sys
from pathlib import Path
from bench import gpu_check
from bench.phases import Outcome, PASSED
scratch = Path(sys.argv[1])
tiny = ("--network", "lenet5", "--batch", "1", "--layer", "conv2", "--verb", "wgrad")
tiny += ("--dtype", "bfloat16", "--repeats", "1")
gpu_check.BACKEND, gpu_check.FAMILIES, gpu_check.REPEATS = "emulator", ("depthwise",), 2
gpu_check.REPEATED = ("1x1",)
gpu_check.CONVOLUTIONS = {"tiny-bf16": tiny}
gpu_check.STEPS = {"tiny-step": ("--model", "lenet5", "--batch", "1", "--steps", "1")}
gpu_check.TIMED_AFTER = tiny
gpu_check._why_no_torch = lambda: "no peer"
check = gpu_check.Check(scratch)
summaries = {}
for phase in check.phases():
    if phase.name in ("families", "repeats", "convolutions", "steps", "tuner"):
        steps = [step for step in phase.steps() if step.name != "tune"]
        for step in steps:
            environment = {**gpu_check.os.environ, **step.environment}
            with step.stdout.open("w") as out:
                subprocess.run(step.command, stdout=out, env=environment, check=True)
        if phase.conclude:
            summary, faults = phase.conclude([Outcome(step, PASSED) for step in steps])
            assert not faults
            summaries[phase.name] = summary
        else:
            summaries[phase.name] = json.loads(steps[-1].stdout.read_text())["checked"]
print(json.dumps(summaries))
"""


def test_phases_of_the_convolutions_run_with_the_emulator(repository, tmp_path):
    if reason := why_not("emulator"):
        pytest.skip(reason)
    command = python(PHASES_ON_EMULATOR, tmp_path)
    result = subprocess.run(
        command, cwd=repository, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["families"] > 0
    assert found["repeats"] > 0
    assert 0 < found["convolutions"]["tiny-bf16 geomean_roofline_share"] < 1
    assert [row["verb"] for row in found["convolutions"]["tiny-bf16"]] == ["wgrad"]
    assert found["steps"]["tiny-step images_per_s"] > 0
    assert found["tuner"]["geomean of model / table"] > 0
    assert {path.name for path in tmp_path.glob("*.csv")} == {"tiny-bf16.csv", "tiny-step.csv"}
