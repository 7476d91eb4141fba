"""Which tests ran which kernel in the emulator's check mode.

``pytest --kernel-coverage`` prints the list, and fails when a kernel of the package is missing.
"""

from collections import defaultdict

import pytest

from convolt.kernels import emulator
from convolt.kernels.cuda.table import all_kernels


def add_option(parser):
    parser.addoption(
        "--kernel-coverage",
        action="store_true",
        help="list the kernels that tests ran in check mode; fail if one is missing",
    )


class Plugin:
    """Records launches test by test."""

    def __init__(self, config):
        self.wanted = config.getoption("--kernel-coverage")
        self.tests = defaultdict(list)  # entry point -> tests

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item):
        if not self.wanted:
            yield
            return
        with emulator.record() as launches:
            yield
        for entry in {x.entry for x in launches if x.options.mode == "check"}:
            self.tests[entry].append(item.nodeid)

    def pytest_terminal_summary(self, terminalreporter):
        if not self.wanted:
            return
        terminalreporter.section("kernels run in check mode")
        for entry in self.entries():
            tests = self.tests[entry]
            files = sorted({test.partition("::")[0] for test in tests})
            terminalreporter.line(f"{entry:50} {len(tests):5} tests in {' '.join(files) or '-'}")

    def pytest_sessionfinish(self, session):
        if not self.wanted:
            return
        missing = [entry for entry in self.entries() if not self.tests[entry]]
        if missing:
            print(f"\nno test ran in check mode: {', '.join(missing)}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @staticmethod
    def entries():
        return sorted({kernel.entry for kernel in all_kernels()})
