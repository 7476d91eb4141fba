"""Check convolt on a machine with a GPU, in one command, from the root of the repository.

    python -m bench.gpu_check --output DIR                    # everything, within 9 minutes
    python -m bench.gpu_check --output DIR --phase parity     # one part; may be repeated

DIR gets gpu_check.json, gpu_check.md and gpu_check.log, which are written as it goes: a run that is
cut off keeps what it has. Each phase has its share of the time. What the machine lacks is skipped,
what did not fit is cut off, and both are said. The exit status is 1 when a phase failed or was cut
off, or when there is no GPU.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from .measure import commit
from .phases import Interrupted, Outcome, Phase, Report, Skip, Step, Summary, run_phases

ROOT = Path(__file__).parent.parent
RESERVE_S = 8.0  # of the minutes: to start, to end what hangs, to write

ROOMS = ("kernels", "engine", "layers", "optim", "models", "training")
LEAST_ACCURACY = 0.98  # of LeNet-5 on the digits
LAYERS = ("conv1", "res2a_branch2b", "res3a_branch2b", "res4a_branch1", "res5b_branch2b")
TOOLS = ("memcheck", "racecheck", "initcheck")
EQUAL_FILES = ("best.safetensors", "last.safetensors", "metrics.csv")

PYTHON = (sys.executable, "-m")
CONVOLT = (sys.executable, "-c", "from convolt.cli import main; raise SystemExit(main())")
NO_TESTS = 5  # pytest's exit status when it has collected none


class Check:
    """The phases, and the scratch folder in which their commands leave files."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        # A cache of its own: the phase compile starts cold, and those after it find its results.
        os.environ["CONVOLT_CACHE_DIR"] = str(scratch / "cache")

    def phases(self) -> tuple[Phase, ...]:
        """Return all phases in order; the shares add up to the seconds of 9 minutes, about."""
        return (
            Phase("device", "GPU and driver", 25, self.device, self.see_device, vital=True),
            Phase("compile", "all kernels for this GPU, cold", 70, self.compile, self.see_kernels),
            Phase("ptx", "every wrapper of ptx.cuh, on the GPU and the emulator", 60, self.ptx),
            Phase("parity", "the tests of the kernels, on the GPU", 120, self.parity, parallel=4),
            Phase("cupy", "the tests with CuPy's arrays", 35, self.cupy),
            Phase("training", "LeNet-5 on digits, twice", 60, self.training, self.see_training),
            Phase("benchmarks", "times", 90, self.benchmarks, self.see_benchmarks),
            Phase("sanitizer", "compute-sanitizer", 80, self.sanitizer, self.see_sanitizer),
        )

    # Device

    def device(self) -> list[Step]:
        """Ask for GPU and driver."""
        return [Step("device", (*PYTHON, "bench.device"), stdout=self.scratch / "device.json")]

    def see_device(self, outcomes: list[Outcome]) -> tuple[Summary, list[str]]:
        """Flatten the facts."""
        facts = json.loads((self.scratch / "device.json").read_text())
        smi = facts.pop("nvidia_smi")
        where = {f"machine_{name}": value for name, value in facts.pop("machine").items()}
        return facts | (smi if isinstance(smi, dict) else {"nvidia_smi": smi}) | where, []

    # Kernels

    def compile(self) -> list[Step]:
        """Compile every kernel with every set of constants."""
        from convolt.kernels.cuda.compile import ARCHS

        arch = json.loads((self.scratch / "device.json").read_text())["arch"]
        if arch not in ARCHS:
            raise Skip(
                f"the table of kernels has no {arch}; each is compiled when it is first used"
            )
        options = ("doctor", "--kernels", "--json", "--arch", arch)
        return [Step("doctor", (*CONVOLT, *options), stdout=self.scratch / "kernels.json")]

    def see_kernels(self, outcomes: list[Outcome]) -> tuple[Summary, list[str]]:
        """Count."""
        rows = json.loads((self.scratch / "kernels.json").read_text())
        return {
            "kernels": len({row["kernel"] for row in rows}),
            "compiled": len(rows),
            "with_spills_or_stack": sum(bool(r["spills"] or r["stack_bytes"]) for r in rows),
            "not_compiling": sum(bool(row["error"]) for row in rows),
        }, []

    # Tests

    def tests(self, name: str, *words: str, before: tuple[str, ...] = ()) -> Step:
        """Return a run of pytest; one that collects no test is fine."""
        junit = self.scratch / f"{name}.xml"
        options = ("-v", "--require-cuda", "--tb=short", "-p", "no:cacheprovider")
        command = (*before, *PYTHON, "pytest", *words, *options, f"--junitxml={junit}")
        return Step(name, command, junit=junit, fine=(0, NO_TESTS))

    def ptx(self) -> list[Step]:
        """Run the tests of the wrappers."""
        files = [file for file in self.files("kernels/cuda") if file.name.startswith("test_ptx")]
        return [self.tests(file.stem, str(file)) for file in files]

    def parity(self) -> list[Step]:
        """Run the suite on the GPU, file by file: after a fault, a process has lost its GPU."""
        files = [file for room in ROOMS for file in self.files(room)]
        files.sort(key=lambda file: "torch_parity" in file.name)  # the slow imports last
        return [self.tests(f"{f.parent.name}-{f.stem}", str(f), "-k", "cuda") for f in files]

    def cupy(self) -> list[Step]:
        """Run the tests with CuPy's arrays in the GPU's memory, file by file."""
        files = self.files("on_cupy")
        return [self.tests(f"on_cupy-{f.stem}", str(f), "-k", "[gpu") for f in files]

    def files(self, folder: str) -> list[Path]:
        """Return the test files of a folder.

        Raises:
            Skip: There are none.
        """
        found = sorted((ROOT / "tests" / folder).glob("test_*.py"))
        if not found:
            raise Skip(f"tests/{folder} has no tests")
        if find_spec("pytest") is None:
            raise Skip("pytest is not installed")
        return [file.relative_to(ROOT) for file in found]

    # compute-sanitizer

    def sanitizer(self) -> list[Step]:
        """Run one variant of each test under each tool."""
        program = shutil.which(
            "compute-sanitizer", path=f"{os.environ['PATH']}:/usr/local/cuda/bin"
        )
        if program is None:
            raise Skip("compute-sanitizer is not installed; it comes with the CUDA toolkit")
        files = [str(file) for file in (*self.files("kernels"), *self.files("on_cupy"))]
        steps = []
        for tool in TOOLS:
            options = ("--tool", tool, "--target-processes", "all", "--error-exitcode", "9")
            before = (program, *options, "--report-api-errors", "no")
            words = ("-p", "bench.one_variant", "-k", "cuda or [gpu", *files)
            steps.append(self.tests(tool, *words, before=before))
        return steps

    def see_sanitizer(self, outcomes: list[Outcome]) -> tuple[Summary, list[str]]:
        """Return what each tool sums up, which it prints last."""
        said = {
            o.step.name: next((line for line in reversed(o.tail) if "SUMMARY" in line), None)
            for o in outcomes
        }
        silent = [f"{tool}: no summary" for tool, line in said.items() if line is None]
        return {tool: line.strip("= ") for tool, line in said.items() if line}, silent

    # Training

    def training(self) -> list[Step]:
        """Train twice."""
        words = ("train", "lenet5", "--data", "digits", "--backend", "cuda", "--output")
        runs = (self.scratch / "run1", self.scratch / "run2")
        return [Step(run.name, (*CONVOLT, *words, str(run))) for run in runs]

    def see_training(self, outcomes: list[Outcome]) -> tuple[Summary, list[str]]:
        """Look at the accuracy, and compare the two runs byte by byte."""
        first, second = (self.scratch / run for run in ("run1", "run2"))
        found = json.loads((first / "summary.json").read_text())
        keys = ("test_accuracy", "last_test_accuracy", "epochs", "seconds", "backend")
        summary = {key: found[key] for key in keys}
        faults = []
        if found["backend"] != "cuda":
            faults.append(f"it ran on {found['backend']}")
        if found["test_accuracy"] < LEAST_ACCURACY:
            faults.append(f"accuracy {found['test_accuracy']:.4f} is below {LEAST_ACCURACY}")
        if outcomes[-1].status == "passed":
            pairs = ((name, first / name, second / name) for name in EQUAL_FILES)
            unequal = [name for name, a, b in pairs if a.read_bytes() != b.read_bytes()]
            summary["two_runs_equal"] = not unequal
            faults += [f"{name} of two equal runs differs" for name in unequal]
        return summary, faults

    # Benchmarks

    def benchmarks(self) -> list[Step]:
        """Time convolutions beside PyTorch where it works, and the kernels that memory bounds."""
        peer = () if _why_no_torch() else ("--peer", "torch")
        layers = (word for name in LAYERS for word in ("--layer", name))
        words = {
            "lenet5": ("conv2d", "--network", "lenet5", "--repeats", "5", *peer),
            "resnet50": ("conv2d", "--network", "resnet50", "--batch", "32", *layers, *peer),
            "roofline": ("roofline",),
        }
        return [
            Step(
                name,
                (*PYTHON, f"bench.{module}", "--backend", "cuda", "--json", *options),
                stdout=self.scratch / f"{name}.json",
            )
            for name, (module, *options) in words.items()
        ]

    def see_benchmarks(self, outcomes: list[Outcome]) -> tuple[Summary, list[str]]:
        """Return the tables."""
        summary: Summary = {"peer": _why_no_torch() or "torch, ieee float32"}
        for outcome in outcomes:
            if outcome.status != "passed":
                continue
            name = outcome.step.name
            report = json.loads((self.scratch / f"{name}.json").read_text())
            numbers = ("geomean_ratio", "copy_gigabytes_per_s", "matrix_product_gflops")
            summary |= {f"{name} {key}": report[key] for key in numbers if report.get(key)}
            summary[name] = report["results"]
        return summary, []


@cache
def _why_no_torch() -> str | None:
    """Return why PyTorch cannot be the peer, or None when it can."""
    if find_spec("torch") is None:
        return "no peer: PyTorch is not installed"
    script = "import torch; raise SystemExit(not torch.cuda.is_available())"
    try:
        found = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=40)
    except subprocess.TimeoutExpired:
        return "no peer: importing PyTorch takes too long"
    return "no peer: PyTorch finds no usable GPU" if found.returncode else None


def main() -> int:
    """Read the command line and run the phases."""
    start_s = time.monotonic()
    with TemporaryDirectory(prefix="gpu_check-", ignore_cleanup_errors=True) as scratch:
        phases = Check(Path(scratch)).phases()
        names = [phase.name for phase in phases]
        parser = argparse.ArgumentParser(
            prog="python -m bench.gpu_check", description="Check convolt on a machine with a GPU."
        )
        parser.add_argument("--output", type=Path, required=True, metavar="DIR")
        parser.add_argument(
            "--phase", action="append", choices=names, help="only this one, after the device"
        )
        parser.add_argument("--minutes", type=float, default=9.0, help="in which all ends")
        parser.add_argument("--commit", help="what to call it where git cannot be asked")
        arguments = parser.parse_args()
        wanted = {names[0], *(arguments.phase or names)}
        chosen = [phase for phase in phases if phase.name in wanted]
        facts = {
            "title": "bench.gpu_check",
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
            "commit": commit() or arguments.commit or "unknown",
            "minutes": arguments.minutes,
        }
        report = Report(arguments.output, "gpu_check", facts, chosen)
        try:
            run_phases(chosen, report, start_s + arguments.minutes * 60 - RESERVE_S, ROOT)
        except Interrupted as reason:
            print(f"error: {reason}; {arguments.output} has what was done", file=sys.stderr)
            return 1
        device = report.data["phases"]["device"]
        if device["status"] != "passed":
            print("error: without a GPU there is nothing to check:", file=sys.stderr)
            print("\n".join(device["log_tail"]), file=sys.stderr)
        return 0 if report.green else 1


if __name__ == "__main__":
    sys.exit(main())
