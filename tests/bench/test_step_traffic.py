"""The bytes of a training step, by formulas, against those that the emulator counts."""

import json

import numpy as np
import pytest

import convolt
from convolt import functional, models, optim
from convolt.kernels import emulator
from convolt.kernels.backend import use_backend
from convolt.kernels.layout import channels_first

SECTOR_BYTES = 32
BATCH = 2


def test_a_step_of_lenet5_moves_what_the_emulator_counts(run, on_emulator):
    done = run("bench.step_traffic", "--model", "lenet5", "--batch", str(BATCH), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)

    net = models.build("lenet5")
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    rng = np.random.default_rng(0)
    x = convolt.Tensor(channels_first(rng.standard_normal((BATCH, 28, 28, 1), dtype=np.float32)))
    target = convolt.Tensor(np.arange(BATCH))

    def step():
        optimizer.zero_grad()
        functional.cross_entropy(net(x), target).backward()
        optimizer.step()

    step()
    with emulator.options(mode="check"), emulator.record() as launches:
        step()
    counted = {}
    for launch in launches:
        c = launch.counters
        sectors = c.distinct_read_sectors + c.distinct_write_sectors
        count, bytes_ = counted.get(launch.entry, (0, 0))
        counted[launch.entry] = count + 1, bytes_ + SECTOR_BYTES * sectors
    said = {
        row["kernel"]: BATCH
        * 1e6
        * (row["read_megabytes_per_image"] + row["write_megabytes_per_image"])
        for row in report["results"]
    }
    assert {row["kernel"]: row["launches"] for row in report["results"]} == {
        entry: count for entry, (count, _) in counted.items()
    }
    for entry, (count, bytes_) in counted.items():
        assert bytes_ <= 1.1 * said[entry] + 16 * SECTOR_BYTES * count, entry
    total = BATCH * 1e6 * report["megabytes_per_image"]
    assert total == pytest.approx(sum(bytes_ for _, bytes_ in counted.values()), rel=0.1)


@pytest.fixture
def on_emulator():
    with use_backend("emulator"):
        yield


def test_a_step_of_resnet50_moves_no_more_than_is_asked_of_it(run):
    options = "--model resnet50 --batch 256 --image 224 224 3 --dtype bfloat16 --json"
    done = run("bench.step_traffic", *options.split())
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["megabytes_per_image"] <= 310
    launches = {row["kernel"]: row["launches"] for row in report["results"]}
    assert launches["batch_norm_backward_combine"] == 53
    assert launches["batch_norm_backward_sums"] == 6  # below poolings, and of the shortcuts
    assert launches["elementwise_add"] == 53  # the counts of batches: no gradients
