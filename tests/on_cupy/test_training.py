"""LeNet-5 on CuPy arrays: the same run, bit for bit, as on NumPy arrays with the same kernels."""

import io

import host_cupy
import numpy as np
import pytest

import convolt
from convolt import layers, optim, use_backend
from convolt.data import Loader, Normalize, RandomCrop, digits
from convolt.models import lenet5
from convolt.training import Trainer, evaluation_loader
from convolt.training.checkpoint import load
from convolt.training.progress import Lines

FILES = ["last.safetensors", "best.safetensors", "metrics.csv"]


def trainer(output, *, rule=optim.SGD, epochs=1, **options):
    train, test = (part.subset(24) for part in digits(28, seed=0))
    normalize = Normalize.of(train)
    convolt.manual_seed(0)
    model = lenet5(in_channels=1, num_classes=10)
    optimizer = rule(model.parameters(), lr=0.01)
    return Trainer(
        model,
        optimizer,
        layers.CrossEntropyLoss(),
        Loader(train, 8, shuffle=True, seed=0, augment=RandomCrop(2), normalize=normalize),
        evaluation_loader(test.subset(8), normalize),
        output,
        epochs=epochs,
        schedule=optim.CosineAnnealingLR(optimizer, 3 * epochs),
        progress=Lines(epochs, io.StringIO()),
        **options,
    )


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("rule", [optim.SGD, optim.AdamW])
def test_a_run_equals_the_emulator_s(cupy, tmp_path, rule):
    trainer(tmp_path / "cuda", rule=rule).run()
    with use_backend("emulator"):
        trainer(tmp_path / "emulator", rule=rule).run()
    if host_cupy.is_installed(cupy):
        assert contents(tmp_path / "cuda") == contents(tmp_path / "emulator")
    else:  # the GPU's exp and log differ in the last digits
        (there, _), (here, _) = (load(tmp_path / n / FILES[0]) for n in ("cuda", "emulator"))
        for name, array in here.items():
            limit = 1e-4 * np.abs(array).max()
            np.testing.assert_allclose(there[name], array, rtol=0, atol=limit, err_msg=name)
