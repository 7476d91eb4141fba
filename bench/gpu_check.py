"""Check convolt on a machine with a GPU, in one command, from the root of the repository.

    python -m bench.gpu_check --output DIR                    # everything, within 9 minutes
    python -m bench.gpu_check --output DIR --phase parity     # one part; may be repeated

DIR gets gpu_check.json, gpu_check.md and gpu_check.log, which are written as it goes: a run that is
cut off keeps what it has; and CSV files for ``bench.plot``, of the times of convolutions and of
training steps. What all else rests on comes first: instructions, then kernels, then times. Each
phase has its share of the time. What the machine lacks is skipped, what did not fit is cut off, and
both are said. The exit status is 1 when a phase failed or was cut off, or when there is no GPU.
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

from .measure import commit, geomean
from .phases import CUT_OFF, Interrupted, Outcome, Phase, Report, Skip, Step, Summary, run_phases

ROOT = Path(__file__).parent.parent
RESERVE_S = 8.0  # of the minutes: to start, to end what hangs, to write

ROOMS = ("kernels", "engine", "layers", "optim", "models", "training")
LEAST_ACCURACY = 0.98  # of LeNet-5 on the digits
FAMILIES = ("mma", "wgmma", "simt", "depthwise")
REPEATS = 1000  # of a convolution by wgmma, for equal bytes
REPEATED = ("3x3", "clipped")  # cases of bench.families
TOOLS = ("memcheck", "racecheck", "initcheck")
EQUAL_FILES = ("best.safetensors", "last.safetensors", "metrics.csv")

# Of bench.conv2d, what is wanted most first: commands of a phase share its time.
CONVOLUTIONS = {
    "resnet50-bf16": ("--network", "resnet50", "--batch", "256", "--dtype", "bfloat16"),
    "resnet50-tf32": ("--network", "resnet50", "--batch", "128", "--precision", "tf32"),
    "vgg16-bf16": ("--network", "vgg16", "--batch", "64", "--dtype", "bfloat16"),
    "deepbench-bf16": ("--network", "deepbench", "--dtype", "bfloat16"),
    "cifar-bf16": ("--network", "cifar", "--batch", "128", "--dtype", "bfloat16"),
}
STEPS = {
    "resnet50-step-bf16": ("--model", "resnet50", "--batch", "128", "--dtype", "bfloat16"),
    "resnet20-step-tf32": ("--model", "resnet20", "--batch", "128"),
}
TUNED = ("resnet50", "--batch", "64", "--dtype", "bf16", "--input-size", "3,224,224")
TIMED_AFTER = ("--network", "resnet50", "--batch", "64", "--dtype", "bfloat16")

BACKEND = "cuda"
PYTHON = (sys.executable, "-m")
CONVOLT = (sys.executable, "-c", "from convolt.cli import main; raise SystemExit(main())")
NO_TESTS = 5  # pytest's exit status when it has collected none


class Check:
    """The phases, and the scratch folder in which their commands leave files.

    Attributes:
        scratch: Gone at the end.
        results: Where CSV files are kept.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = self.results = scratch
        # A cache of its own: the phase compile starts cold, and those after it find its results.
        os.environ["CONVOLT_CACHE_DIR"] = str(scratch / "cache")

    def phases(self) -> tuple[Phase, ...]:
        """Return all phases in order; the shares are about the seconds of 9 minutes."""
        return (
            Phase("device", "GPU and driver", 20, self.device, self.see_device, vital=True),
            Phase("compile", "all kernels for this GPU, cold", 60, self.compile, self.see_kernels),
            Phase("ptx", "every wrapper of ptx.cuh, on the GPU and the emulator", 45, self.ptx),
            Phase("families", "bits of each family's convolutions", 45, self.families),
            Phase("repeats", "wgmma, again and again", 25, self.repeats),
            Phase("parity", "the tests of the kernels, on the GPU", 80, self.parity, parallel=4),
            Phase("cupy", "the tests with CuPy's arrays", 30, self.cupy),
            Phase("training", "LeNet-5 on digits, twice", 40, self.training, self.see_training),
            Phase("convolutions", "their times", 75, self.convolutions, self.see_times),
            Phase("steps", "times of training steps", 40, self.steps, self.see_times),
            Phase("memory", "times of what memory bounds", 20, self.memory, self.see_times),
            Phase("tuner", "what timing the kernels brings", 25, self.tuner, self.see_tuner),
            Phase("sanitizer", "compute-sanitizer", 45, self.sanitizer, self.see_sanitizer),
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
            "resources": [row for row in rows if row["kernel"].startswith("conv2d")],
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

    # Families of convolutions

    def families(self) -> list[Step]:
        """Compare each family with the definition."""
        return [self.bench(f"families-{name}", "families", "--family", name) for name in FAMILIES]

    def repeats(self) -> list[Step]:
        """Compute the same by wgmma many times."""
        options = ("--family", "wgmma", "--repeats", str(REPEATS))
        cases = ((f"repeats-{case}", "--case", case) for case in REPEATED)
        return [self.bench(name, "families", *options, *words) for name, *words in cases]

    def bench(self, name: str, module: str, *options: str, **environment: str) -> Step:
        """Return a command of this folder whose report is NAME.json in the scratch folder."""
        command = (*PYTHON, f"bench.{module}", "--backend", BACKEND, "--json", *options)
        return Step(name, command, environment, stdout=self.scratch / f"{name}.json")

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

    # Times

    def convolutions(self) -> list[Step]:
        """Time convolutions, beside PyTorch where it works."""
        return [self.timed(name, "conv2d", *words) for name, words in CONVOLUTIONS.items()]

    def steps(self) -> list[Step]:
        """Time training steps, beside PyTorch where it works."""
        return [self.timed(name, "training_step", *words) for name, words in STEPS.items()]

    def memory(self) -> list[Step]:
        """Time the other ops beside a copy."""
        return [self.bench("roofline", "roofline"), self.timed("memory_bound", "memory_bound")]

    def timed(self, name: str, module: str, *options: str) -> Step:
        """Return a benchmark with its peer, whose rows are kept."""
        peer = () if _why_no_torch() else ("--peer", "torch")
        output = ("--output", str(self.results / f"{name}.csv"))
        return self.bench(name, module, *options, *peer, *output)

    def see_times(self, outcomes: list[Outcome]) -> tuple[Summary, list[str]]:
        """Return the tables."""
        summary: Summary = {"peer": _why_no_torch() or "torch"}
        for outcome in outcomes:
            name = outcome.step.name
            path = self.scratch / f"{name}.json"
            if outcome.status == CUT_OFF or not path.exists() or not path.stat().st_size:
                continue
            report = json.loads(path.read_text())  # also where it failed for some wrong results
            summary |= {f"{name} {key}": report[key] for key in NUMBERS if report.get(key)}
            summary |= {name: report["results"]} if "results" in report else {}
        return summary, []

    def tuner(self) -> list[Step]:
        """Time the kernels of a network, then its convolutions by model and by what was timed."""
        tune = Step("tune", (*CONVOLT, "tune-kernels", *TUNED, "--backend", BACKEND))
        return [
            tune,
            self.bench("by-table", "conv2d", *TIMED_AFTER, CONVOLT_TUNE="cached"),
            self.bench("by-model", "conv2d", *TIMED_AFTER, CONVOLT_TUNE="off"),
        ]

    def see_tuner(self, outcomes: list[Outcome]) -> tuple[Summary, list[str]]:
        """Compare the times, shape by shape."""
        table, model = (
            json.loads((self.scratch / f"by-{name}.json").read_text())["results"]
            for name in ("table", "model")
        )
        pairs = list(zip(table, model, strict=True))
        ratios = [b["time_us"] / a["time_us"] for a, b in pairs]
        chosen = [
            {
                "shape": f"{a['name']} {a['verb']}",
                "by table": a["algorithm"],
                "by model": b["algorithm"],
                "model / table": b["time_us"] / a["time_us"],
            }
            for a, b in pairs
            if a["algorithm"] != b["algorithm"]
        ]
        return {
            "geomean of model / table": geomean(ratios),
            "other algorithms": len(chosen),
            "chosen otherwise": chosen,
        }, []


NUMBERS = (
    *("geomean_ratio", "geomean_roofline_share", "geomean_predicted_share"),
    *("ratio", "ours_s", "peer_s", "images_per_s", "peer_images_per_s"),
    *("copy_gigabytes_per_s", "matrix_product_gflops"),
)
"""Of the benchmarks' reports, what belongs in a line."""


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
        check = Check(Path(scratch))
        phases = check.phases()
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
        check.results = arguments.output
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
