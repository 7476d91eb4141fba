"""What the functions of an ``on_cuda.py`` launch, without running it."""

from convolt.kernels.cuda.launch import Kernel


def record_launches(monkeypatch):
    """Return a list that collects (entry point, grid, constants) instead of launching."""
    launches = []

    def record(self, grid, *arguments, **constants):
        launches.append((self.entry, grid, constants))

    monkeypatch.setattr(Kernel, "launch", record)
    return launches
