"""LeNet-5 on CuPy arrays: the same run, bit for bit, as on NumPy arrays with the same kernels."""

import io
import warnings

import host_cupy
import numpy as np
import pytest

import convolt
from convolt import layers, optim, use_backend
from convolt.data import Loader, Normalize, RandomCrop, digits
from convolt.kernels.precision import use_precision
from convolt.models import lenet5
from convolt.training import Trainer, evaluation_loader
from convolt.training.checkpoint import load
from convolt.training.evaluation import to_tensors
from convolt.training.progress import Lines

FILES = ["last.safetensors", "best.safetensors", "metrics.csv"]


def trainer(output, *, rule=optim.SGD, epochs=1, **options):
    train, test = (part.subset(24) for part in digits(28, seed=0))
    normalize = Normalize.of(train)
    convolt.manual_seed(0)
    model = lenet5(in_channels=1, num_classes=10)
    optimizer = rule(model.parameters(), lr=0.01)
    options.setdefault("progress", Lines(epochs, io.StringIO()))
    return Trainer(
        model,
        optimizer,
        layers.CrossEntropyLoss(),
        Loader(train, 8, shuffle=True, seed=0, augment=RandomCrop(2), normalize=normalize),
        evaluation_loader(test.subset(8), normalize),
        output,
        epochs=epochs,
        schedule=optim.CosineAnnealingLR(optimizer, 3 * epochs),
        **options,
    )


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("rule", [optim.SGD, optim.AdamW])
def test_a_run_equals_the_emulator_s(cupy, tmp_path, rule):
    with use_precision("ieee"):  # else convolutions are tf32 on a GPU only
        trainer(tmp_path / "cuda", rule=rule).run()
        with use_backend("emulator"):
            trainer(tmp_path / "emulator", rule=rule).run()
    if host_cupy.is_installed(cupy):
        assert contents(tmp_path / "cuda") == contents(tmp_path / "emulator")
    else:  # the GPU's exp and log differ in the last digits, which Adam's first steps, of size lr
        # whatever the gradient, magnify where the gradient is nearly nothing
        relative = 1e-4 if rule is optim.SGD else 1e-2
        (there, _), (here, _) = (load(tmp_path / n / FILES[0]) for n in ("cuda", "emulator"))
        for name, array in here.items():
            limit = relative * np.abs(array).max()
            np.testing.assert_allclose(there[name], array, rtol=0, atol=limit, err_msg=name)


class StopAfterEpoch(Lines):
    """Ends the process, as far as the Trainer can tell."""

    def end(self, row, timing, best):
        raise InterruptedError


def test_a_resumed_run_is_the_same_run(cupy, tmp_path):
    trainer(tmp_path / "whole", epochs=2).run()
    with pytest.raises(InterruptedError):
        trainer(tmp_path / "parts", epochs=2, progress=StopAfterEpoch(2, io.StringIO())).run()
    convolt.manual_seed(99)
    trainer(tmp_path / "parts", epochs=2).run(resume=True)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize("rule", [optim.SGD, optim.AdamW])
def test_a_step_waits_for_nothing(cupy, tmp_path, rule):
    """Forward, backward, the optimizer with another learning rate, the sums of the metrics."""
    cupyx = pytest.importorskip("cupyx")
    one = trainer(tmp_path, rule=rule)
    for images, labels in to_tensors(one.train.batches(0)):
        with warnings.catch_warnings(action="ignore"), cupyx.allow_synchronize(False):
            one._train_step(images, labels)
    assert one.sums.scores().loss > 1


def test_tables_of_an_optimizer_stay_at_their_addresses(cupy):
    """A captured step must find what it reads where it was when it was captured."""
    parameters = [convolt.Parameter(convolt.ones(3)) for _ in range(2)]
    rule = optim.Adam(parameters, lr=0.1)

    def step():
        rule.zero_grad()
        sum((p * p).sum() for p in parameters).backward()
        rule.step()
        (part,) = rule._parts
        arrays = (part.flat.data, part.flat.grad, part.segments, part.hyper, *part.state.values())
        return [a.data.ptr for a in arrays]

    before = step()
    rule.param_groups[0]["lr"] = 0.05
    assert step() == before
    assert rule.state_dict()["state"][1]["step"] == 2
