"""Run the benchmarks of the CPU backend in one command, from the root of the repository.

    python -m bench.cpu_check --output DIR                       # everything, some 20 minutes
    python -m bench.cpu_check --output DIR --phase conv2d        # one part; may be repeated

DIR gets a CSV file for each command, pictures of the ratios, and cpu_check.json, cpu_check.md and
cpu_check.log, which are written as it goes. PyTorch is the peer where it is installed. Run it on a
machine that does nothing else. The exit status is 1 when a command failed or was cut off; a goal
that is missed is named in the report, and is no failure.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .measure import commit, geomean
from .phases import Interrupted, Outcome, Phase, Report, Step, Summary, run_phases
from .problems import CPU_BATCH

ROOT = Path(__file__).parent.parent
PYTHON = (sys.executable, "-m")

# What the CPU backend is to reach beside PyTorch.
LEAST_GEOMEAN, LEAST_OF_A_VERB, LEAST_OF_A_SHAPE = 1.05, 1.0, 0.8
LEAST_OF_A_STEP = 1.1
MOST_US_OF_PYTHON = 15  # an op, with one image
MOST_S_OF_COLD_START = 20
LEAST_OF_AN_OP, LEAST_SHARE_OF_COPY = 1.0, 0.8

Row = dict[str, str]
Conclusion = Callable[[list[Row]], tuple[Summary, list[str]]]


class Check:
    """The phases, and the folder in which their commands leave files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder.resolve(), name
        self.peer = ("--peer", "torch") if find_spec("torch") else ()

    def phases(self) -> tuple[Phase, ...]:
        """Return all phases in order; the shares are minutes, about."""
        networks = [
            (f"conv2d-{network}", ("conv2d", "--network", network, "--batch", str(images)))
            for network, images in CPU_BATCH.items()
        ]
        steps = [("training_step", ("training_step", "--model", "all"))]
        ops = [("memory_bound", ("memory_bound",))]
        return (
            self.phase("conv2d", "convolutions of four networks", 10, networks, see_conv2d),
            self.phase("training_step", "a training step", 3, steps, see_training_step),
            self.phase("memory_bound", "the ops that memory bounds", 3, ops, see_memory_bound),
            self.phase(
                "scaling", "growth of time", 4, [("scaling", ("scaling",))], see_scaling, peer=()
            ),
            self.phase(
                *("python_time", "Python of a step with one image", 1),
                *([("python_time", ("python_time",))], see_python_time),
                peer=(),
            ),
            self.phase(
                *("start_up", "LeNet-5 in a new process, cold and warm", 1),
                *([("start_up", ("start_up",))], see_start_up),
                peer=(),
            ),
        )

    def phase(
        self,
        name: str,
        title: str,
        share: float,
        commands: list[tuple[str, tuple[str, ...]]],
        see: Conclusion,
        peer: tuple[str, ...] | None = None,
    ) -> Phase:
        """Return a phase of benchmarks, a CSV file each, and of the picture of their ratios."""
        peer = self.peer if peer is None else peer
        files = {step: self.folder / f"{self.name}-{step}.csv" for step, _ in commands}
        options = ("--backend", "numba", *peer)
        steps = [
            Step(step, (*PYTHON, f"bench.{words[0]}", *words[1:], *options, "--output", file))
            for (step, words), file in zip(commands, files.values(), strict=True)
        ]
        if peer and find_spec("matplotlib"):
            picture = self.folder / f"{self.name}-{name}.svg"
            words = (*PYTHON, "bench.plot", *files.values(), "--output", picture)
            steps.append(Step("picture", words))

        def conclude(outcomes: list[Outcome]) -> tuple[Summary, list[str]]:
            made = [
                files[o.step.name]
                for o in outcomes
                if o.status == "passed" and o.step.name in files
            ]
            summary, missed = see(read(made))
            found = {"missed goals": len(missed), "missed": [{"goal": goal} for goal in missed]}
            return summary | found, []

        return Phase(name, title, share, lambda: steps, conclude)


def read(files: Iterable[Path]) -> list[Row]:
    """Return the rows of CSV files."""
    rows: list[Row] = []
    for path in files:
        with path.open(newline="") as file:
            rows += csv.DictReader(file)
    return rows


def ratios(rows: list[Row]) -> list[float]:
    """Return the ratios of the rows that have one."""
    return [float(row["ratio"]) for row in rows if row.get("ratio")]


def lowest(rows: list[Row], names: tuple[str, ...], count: int = 5) -> list[dict[str, Any]]:
    """Return the rows of the lowest ratios, as a table."""
    ordered = sorted((row for row in rows if row.get("ratio")), key=lambda r: float(r["ratio"]))
    kept = (*names, "ratio")
    return [{name: _value(row[name]) for name in kept} for row in ordered[:count]]


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def below(what: str, value: float | None, least: float) -> list[str]:
    """Return the line that says so, if a value is below its goal."""
    return [f"{what} {value:.2f} < {least:g}"] if value is not None and value < least else []


def see_conv2d(rows: list[Row]) -> tuple[Summary, list[str]]:
    """Put the networks together."""
    by_verb = {
        verb: geomean(ratios([row for row in rows if row["verb"] == verb]))
        for verb in dict.fromkeys(row["verb"] for row in rows)
    }
    mean = geomean(ratios(rows))
    worst = lowest(rows, ("network", "name", "verb", "share_of_peak"))
    missed = below("geomean_ratio", mean, LEAST_GEOMEAN)
    for verb, value in by_verb.items():
        missed += below(verb, value, LEAST_OF_A_VERB)
    for row in lowest(rows, ("network", "name", "verb"), len(rows)):
        name = f"{row['network']} {row['name']} {row['verb']}"
        missed += below(name, row["ratio"], LEAST_OF_A_SHAPE)
    summary = {f"geomean_ratio {verb}": value for verb, value in by_verb.items()}
    return {"geomean_ratio": mean, **summary, "lowest": worst}, missed


def see_training_step(rows: list[Row]) -> tuple[Summary, list[str]]:
    """Compare times and memory."""
    missed, table = [], []
    for row in rows:
        ours, peer = row["peak_memory_bytes"], row.get("peer_peak_memory_bytes")
        ratio = float(row["ratio"]) if row["ratio"] else None
        memory = float(peer) / float(ours) if peer else None
        table.append({"model": row["model"], "ratio": ratio, "ratio of peak memory": memory})
        missed += below(row["model"], ratio, LEAST_OF_A_STEP)
        missed += below(f"peak memory of {row['model']}", memory, 1)
    return {"steps": table}, missed


def see_memory_bound(rows: list[Row]) -> tuple[Summary, list[str]]:
    """Name what is below the goals."""
    missed = []
    for row in rows:
        ratio = float(row["ratio"]) if row["ratio"] else None
        missed += below(row["op"], ratio, LEAST_OF_AN_OP)
        share = float(row["share_of_copy"])
        missed += below(f"share_of_copy of {row['op']}", share, LEAST_SHARE_OF_COPY)
    worst = lowest(rows, ("op", "share_of_copy"))
    return {"geomean_ratio": geomean(ratios(rows)), "lowest": worst}, missed


def see_scaling(rows: list[Row]) -> tuple[Summary, list[str]]:
    """Return the share of the roofline with the most threads, at the largest of each size."""
    last = {(row["of"], row["varied"]): row for row in rows}
    columns = ("of", "varied", "batch", "channels", "image", "threads", "share_of_roofline")
    return {"largest": [{name: _value(row[name]) for name in columns} for row in last.values()]}, []


def see_python_time(rows: list[Row]) -> tuple[Summary, list[str]]:
    """Return the Python of an op."""
    found = float(rows[0]["python_us_per_op"])
    over = found > MOST_US_OF_PYTHON
    missed = [f"python_us_per_op {found:.1f} > {MOST_US_OF_PYTHON}"] if over else []
    return {"python_us_per_op": found}, missed


def see_start_up(rows: list[Row]) -> tuple[Summary, list[str]]:
    """Return both starts: a cold one must be quick enough, a warm one must compile nothing."""
    cold, warm = rows
    missed, found_s = [], float(cold["process_s"])
    if found_s > MOST_S_OF_COLD_START:
        missed.append(f"cold process_s {found_s:.1f} > {MOST_S_OF_COLD_START}")
    if int(warm["compiled"]):
        missed.append(f"a warm start compiled {warm['compiled']} functions")
    columns = ("process_s", "import_s", "first_step_s", "compiled")
    return {f"{row['start']} {name}": _value(row[name]) for row in rows for name in columns}, missed


def main() -> int:
    """Read the command line and run the phases."""
    start_s = time.monotonic()
    names = [phase.name for phase in Check(Path(), "").phases()]
    parser = argparse.ArgumentParser(
        prog="python -m bench.cpu_check", description="Run the benchmarks of the CPU backend."
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--name", default="cpu", help="what the files' names begin with")
    parser.add_argument("--phase", action="append", choices=names, help="only this one")
    parser.add_argument("--minutes", type=float, default=60.0, help="in which all ends")
    arguments = parser.parse_args()
    wanted = arguments.phase or names
    phases = Check(arguments.output, arguments.name).phases()
    chosen = [phase for phase in phases if phase.name in wanted]
    facts = {
        "title": "bench.cpu_check",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": commit() or "unknown",
    }
    report = Report(arguments.output, "cpu_check", facts, chosen)
    try:
        run_phases(chosen, report, start_s + arguments.minutes * 60, ROOT)
    except Interrupted as reason:
        print(f"error: {reason}; {arguments.output} has what was done", file=sys.stderr)
        return 1
    return 0 if report.green else 1


if __name__ == "__main__":
    sys.exit(main())
