"""Run the phases of a check, each in its share of the time, and keep a report of what is known.

A phase is a list of commands. Whatever happens, the report says of each phase one of: passed,
failed, cut off (its time was over, or the run was interrupted), skipped (with the reason), or, in
the report of a run that was killed, running and not reached.

The report is three files in one folder: NAME.json and NAME.md, written anew after each phase, and
NAME.log, to which every line that a command prints is added as it comes.
"""

import json
import os
import signal
import subprocess
import time
import xml.etree.ElementTree as xml
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

PASSED, FAILED, CUT_OFF, SKIPPED = "passed", "failed", "cut off", "skipped"
RUNNING, NOT_REACHED = "running", "not reached"

GRACE_S = 6.0  # before the end a command is interrupted, as by Ctrl-C; at the end it is killed
LEAST_S = 2 * GRACE_S  # with less time left, no command is started
TAIL_LINES = 20
LISTED_FAULTS = 30

Summary = dict[str, Any]


class Skip(Exception):
    """A phase cannot run on this machine; the message says why."""


class Interrupted(BaseException):
    """A signal asks this process to end."""


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a phase.

    Attributes:
        name: Unique in its phase.
        command: The words of the command.
        environment: Variables beside those of this process.
        stdout: A file for the standard output; None sends it to the log.
        junit: Where the command, a run of pytest, writes its JUnit XML.
        fine: Exit statuses that are no failure.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    stdout: Path | None = None
    junit: Path | None = None
    fine: tuple[int, ...] = (0,)


@dataclass(slots=True)
class Outcome:
    """What became of a step: ``exit_status`` is None when it was not started, or did not end."""

    step: Step
    status: str
    exit_status: int | None = None
    seconds: float = 0.0
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of a check.

    Attributes:
        name: As ``--phase`` has it.
        title: What it checks, in a line.
        share: Of the time; what a phase leaves over is shared among those after it.
        steps: Returns the commands, or raises Skip.
        conclude: Called with the outcomes; returns numbers for the report and what is wrong.
        parallel: How many commands run at once.
        vital: Whether the phases after it make no sense when it does not pass.
    """

    name: str
    title: str
    share: float
    steps: Callable[[], list[Step]]
    conclude: Callable[[list[Outcome]], tuple[Summary, list[str]]] | None = None
    parallel: int = 1
    vital: bool = False


class Report:
    """The report of a run, in memory and in its folder.

    Args:
        folder: Made when it is not there.
        name: Of its files.
        facts: What goes before the phases.
        phases: All that are to run.
    """

    def __init__(self, folder: Path, name: str, facts: Summary, phases: Iterable[Phase]) -> None:
        self.data: Summary = {
            **facts,
            "finished": False,
            "seconds": 0.0,
            "phases": {p.name: {"title": p.title, "status": NOT_REACHED} for p in phases},
        }
        self._start_s = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        self._json, self._markdown = folder / f"{name}.json", folder / f"{name}.md"
        self.log_path = folder / f"{name}.log"
        self.log_path.write_text("")

    def write(self, phase: str | None = None, **news: Any) -> None:
        """Write both files, with what is new of a phase."""
        if phase is not None:
            self.data["phases"][phase].update(news)
        self.data["seconds"] = round(time.monotonic() - self._start_s, 1)
        _replace(self._json, json.dumps(self.data, indent=2) + "\n")
        _replace(self._markdown, markdown(self.data))

    @property
    def green(self) -> bool:
        """Whether every phase passed, or was skipped because the machine lacks what it needs."""
        return all(p["status"] in (PASSED, SKIPPED) for p in self.data["phases"].values())


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader, or a kill, never meets half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def run_phases(phases: Sequence[Phase], report: Report, end_s: float, root: Path) -> None:
    """Run the phases in order, each in its share of the time that is left.

    Args:
        phases: Those of the report.
        report: Written before and after each phase.
        end_s: When all must be over, by ``time.monotonic()``.
        root: The folder in which the commands run.
    """
    missing = None
    report.write()
    with report.log_path.open("a", buffering=1) as log, _signals_interrupt():
        for i, phase in enumerate(phases):
            if missing:
                report.write(phase.name, status=SKIPPED, reason=f"the phase {missing} did not pass")
                continue
            left_s = end_s - time.monotonic()
            budget_s = max(0.0, left_s * phase.share / sum(p.share for p in phases[i:]))
            report.write(phase.name, status=RUNNING, budget_s=round(budget_s, 1))
            log.write(f"=== {phase.name}: {phase.title}; at most {budget_s:.0f} s\n")
            found = _run_phase(phase, time.monotonic() + budget_s, root, log, report)
            report.write(phase.name, **found)
            print(f"{phase.name:<12} {found['status']:<8} {_words(found)}", flush=True)
            if phase.vital and found["status"] != PASSED:
                missing = phase.name
    report.data["finished"] = True
    report.write()


def _run_phase(phase: Phase, end_s: float, root: Path, log: TextIO, report: Report) -> Summary:
    start_s = time.monotonic()
    try:
        steps = phase.steps()
    except Skip as reason:
        return {"status": SKIPPED, "reason": str(reason), "seconds": 0.0}
    except Exception as error:  # say so, and go on with the next phase
        return {"status": FAILED, "reason": f"{type(error).__name__}: {error}", "seconds": 0.0}
    outcomes: list[Outcome] = []
    try:
        _run_steps(steps, phase.parallel, end_s, root, log, outcomes)
    except Interrupted as signal_name:
        found = _found(phase, outcomes, time.monotonic() - start_s)
        report.write(phase.name, **{**found, "status": CUT_OFF, "reason": f"{signal_name}"})
        raise
    return _found(phase, outcomes, time.monotonic() - start_s)


def _found(phase: Phase, outcomes: list[Outcome], seconds: float) -> Summary:
    """What the report says of a phase."""
    statuses = {outcome.status for outcome in outcomes}
    summary, faults = _tests(outcomes)
    if phase.conclude is not None:
        try:
            more, wrong = phase.conclude(outcomes)
        except Exception as error:  # a step that did not end well leaves files out, or half written
            more, wrong = {}, [f"no results: {type(error).__name__}: {error}"]
        summary |= more
        faults += wrong if statuses == {PASSED} else []
    faults += [_last_words(outcome) for outcome in outcomes if outcome.status == FAILED]
    if faults:
        status = FAILED
    elif CUT_OFF in statuses:
        status = CUT_OFF
    else:
        status = PASSED
    found: Summary = {"status": status, "seconds": round(seconds, 1), "summary": summary}
    if faults:
        found["faults"] = faults[:LISTED_FAULTS]
        found["reason"] = faults[0]
    unfinished = [o.step.name for o in outcomes if o.status == CUT_OFF]
    if unfinished:
        found["cut_off"] = unfinished
        found.setdefault("reason", f"no time left for {', '.join(unfinished)}")
    worst = next((o for o in outcomes if o.status != PASSED), outcomes[-1] if outcomes else None)
    found["log_tail"] = list(worst.tail) if worst else []
    return found


def _last_words(outcome: Outcome) -> str:
    said = next((line for line in reversed(outcome.tail) if line.strip()), "nothing")
    ended = "did not start" if outcome.exit_status is None else f"status {outcome.exit_status}"
    return f"{outcome.step.name}: {ended}, and last said: {said.strip()[:300]}"


# Commands


def _run_steps(
    steps: Sequence[Step],
    parallel: int,
    end_s: float,
    root: Path,
    log: TextIO,
    outcomes: list[Outcome],
) -> None:
    """Run commands until ``end_s``; one after the other, each has its share of the time."""
    waiting, running = deque(steps), list[_Running]()
    try:
        while waiting or running:
            now_s = time.monotonic()
            while waiting and len(running) < parallel and end_s - now_s >= LEAST_S:
                share_s = (end_s - now_s) / (len(waiting) if parallel == 1 else 1)
                step_end_s = now_s + max(share_s, LEAST_S)
                step = waiting.popleft()
                try:
                    running.append(_Running(step, step_end_s, root, log))
                except OSError as error:
                    outcomes.append(Outcome(step, FAILED, tail=deque([str(error)])))
            if not running:
                break
            for command in [command for command in running if command.is_over()]:
                running.remove(command)
                outcomes.append(command.outcome())
            time.sleep(0.02)
    finally:
        for command in running:
            command.kill()
            outcomes.append(command.outcome())
        outcomes.extend(Outcome(step, CUT_OFF) for step in waiting)


class _Running:
    """A command in a process group of its own, and the thread that copies what it prints."""

    def __init__(self, step: Step, end_s: float, root: Path, log: TextIO) -> None:
        self._step, self._end_s = step, end_s
        self._start_s = time.monotonic()
        self._cut = self._killed = False
        self._outcome = Outcome(step, CUT_OFF)
        log.write(f"[{step.name}] $ {' '.join(map(str, step.command))}\n")
        out = step.stdout.open("w") if step.stdout else subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                [str(word) for word in step.command],
                cwd=root,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **step.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE if step.stdout else subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        finally:
            if step.stdout:
                out.close()
        pipe = self._process.stderr if step.stdout else self._process.stdout
        self._copier = Thread(target=self._copy, args=(pipe, log), daemon=True)
        self._copier.start()

    def _copy(self, pipe: TextIO, log: TextIO) -> None:
        with pipe:
            for line in pipe:
                self._outcome.tail.append(line.rstrip())
                log.write(f"[{self._step.name}] {line.rstrip()}\n")

    def is_over(self) -> bool:
        """Whether the command has ended; when its time is over, see to it."""
        if self._process.poll() is not None:
            return True
        now_s = time.monotonic()
        if now_s > self._end_s - GRACE_S and not self._cut:
            self._cut = True
            self._signal(signal.SIGINT)
        if now_s > self._end_s:
            self.kill()
            return True
        return False

    def kill(self) -> None:
        """End the command at once."""
        self._cut = self._killed = True
        self._signal(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # it hangs in the driver: nothing can end it
            self._process.wait(2)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def outcome(self) -> Outcome:
        """What became of it."""
        self._signal(signal.SIGKILL)  # children that it left behind
        self._copier.join(2)
        found = self._outcome
        found.exit_status = self._process.poll()
        found.seconds = time.monotonic() - self._start_s
        if not self._cut:
            found.status = PASSED if found.exit_status in self._step.fine else FAILED
        elif self._killed:
            found.tail.append("(killed)")
        else:
            found.tail.append("(interrupted)")
        return found


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the run with its report written."""

    def interrupt(number: int, _: object) -> None:
        raise Interrupted(f"interrupted by {signal.Signals(number).name}")

    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Results of pytest


def _tests(outcomes: Iterable[Outcome]) -> tuple[Summary, list[str]]:
    """Add up the JUnit files; the faults name the tests that did not pass."""
    counts = dict.fromkeys(("tests_passed", "tests_failed", "tests_skipped"), 0)
    faults: list[str] = []
    runs = [outcome for outcome in outcomes if outcome.step.junit is not None]
    for run in runs:
        found, wrong = read_junit(run.step.junit, interrupted=run.status == CUT_OFF)
        for name, count in found.items():
            counts[name] += count
        faults += wrong
    if runs and not any(o.status == CUT_OFF for o in outcomes) and not counts["tests_passed"]:
        faults.append("no test passed")
    return (counts if runs else {}), faults


def read_junit(path: Path, *, interrupted: bool) -> tuple[dict[str, int], list[str]]:
    """Return the counts of a JUnit file, and a line for each test that failed.

    Of an interrupted run the last test is left out, which pytest lists as if it had passed.
    """
    counts = dict.fromkeys(("tests_passed", "tests_failed", "tests_skipped"), 0)
    faults = []
    try:
        cases = list(xml.parse(path).iter("testcase"))
    except (OSError, xml.ParseError):  # killed before it was written
        return counts, []
    if interrupted and cases and not len(cases[-1]):
        cases.pop()
    for case in cases:
        bad = next((e for e in case if e.tag in ("failure", "error")), None)
        if bad is not None:
            counts["tests_failed"] += 1
            message = " ".join(bad.get("message", "").split())
            faults.append(f"{case.get('classname')}::{case.get('name')}: {message[:200]}")
        elif case.find("skipped") is not None:
            counts["tests_skipped"] += 1
        else:
            counts["tests_passed"] += 1
    return counts, faults


# Markdown


def markdown(data: Summary) -> str:
    """Return the report as a table of the phases, followed by the tables in their summaries."""
    facts = [f"{k}: {v}" for k, v in data.items() if isinstance(v, str | int | float)]
    lines = [f"# {data['title']}", "", "; ".join(facts[1:]), ""]
    lines += _markdown_table(
        {
            "phase": name,
            "status": phase["status"],
            "seconds": phase.get("seconds", ""),
            "results": _words(phase),
        }
        for name, phase in data["phases"].items()
    )
    for name, phase in data["phases"].items():
        if faults := phase.get("faults"):
            lines += ["", f"## {name}: what is wrong", "", *(f"- `{fault}`" for fault in faults)]
        for title, rows in phase.get("summary", {}).items():
            if isinstance(rows, list) and rows and isinstance(rows[0], dict):
                lines += ["", f"## {name}: {title}", "", *_markdown_table(rows)]
    return "\n".join(lines) + "\n"


def _words(phase: Summary) -> str:
    """The numbers of a phase, and why it did not pass, in a line."""
    numbers = (
        f"{key} {_cell(value)}"
        for key, value in phase.get("summary", {}).items()
        if isinstance(value, str | int | float)
    )
    return "; ".join(filter(None, (", ".join(numbers), phase.get("reason", ""))))


def _markdown_table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = list(rows)
    names = list(rows[0])
    cells = [[_cell(row.get(name)).replace("|", "\\|") for name in names] for row in rows]
    return [_line(names), _line(["---"] * len(names)), *map(_line, cells)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
