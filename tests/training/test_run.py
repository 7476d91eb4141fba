"""Runs as processes: killed, interrupted and resumed; and what a run's folder is good for."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convolt import use_backend
from convolt.data import digits
from convolt.kernels import emulator
from convolt.training import Run, Settings, build_model
from convolt.training.checkpoint import load
from convolt.training.files import is_temporary, locked

SAME = ["config.json", "last.safetensors", "best.safetensors", "metrics.csv"]
TINY = {"model": "mlp", "data": "digits", "backend": "numpy", "epochs": 2, "limit": 64}


def contents(folder):
    return {name: (folder / name).read_bytes() for name in SAME}


def rows_of(folder):
    return (folder / "metrics.csv").read_text().splitlines()[1:]


def start(arguments, output):
    command = [sys.executable, "-c", "from convolt.cli import main; main()", "train"]
    command += ["--backend", "numpy", *arguments, "--output", str(output), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def wait_for(process, happened):
    """Whether it happened while the process lived."""
    while process.poll() is None:
        if happened():
            return True
        time.sleep(0.0002)  # leave the processor to the process
    return False


def kill_while_saving(process, output):
    return wait_for(process, lambda: output.is_dir() and any(map(is_temporary, output.iterdir())))


def kill_after_some_time(process, output, wait_s):
    wait_for(process, (output / "config.json").exists)
    until_s = time.perf_counter() + wait_s
    return wait_for(process, lambda: time.perf_counter() > until_s)


def position(folder):
    """Epoch and step of the last checkpoint, which is whole."""
    if not (folder / "last.safetensors").exists():
        return (-1, -1)
    _, meta = load(folder / "last.safetensors")
    return meta["epoch"], meta["step"]


def kill_and_resume(arguments, folder, kills, longest_s):
    """The same run twice: left alone, and killed ``kills`` times, every other time in a save.

    Returns how many of the kills left a temporary file.
    """
    finish(start(arguments, folder / "whole"))
    draw = random.Random(7)
    killed = in_a_save = 0
    reached = (-1, -1)
    for attempt in range(10 * kills):
        output = folder / "killed"
        process = start(arguments, output)
        if attempt % 2:
            alive = kill_while_saving(process, output)
        else:
            alive = kill_after_some_time(process, output, draw.uniform(0, longest_s))
        process.kill()
        process.communicate()
        if not alive or process.returncode != -signal.SIGKILL:  # it was finished: once more
            assert contents(output) == contents(folder / "whole")
            shutil.rmtree(output)
            reached = (-1, -1)
            continue
        assert position(output) >= reached  # no checkpoint is lost
        reached = position(output)
        killed += 1
        in_a_save += any(map(is_temporary, output.iterdir()))
        if killed == kills:
            break
    assert killed == kills
    finish(start(arguments, output))
    assert contents(output) == contents(folder / "whole")
    assert not any(map(is_temporary, output.iterdir()))
    ours, theirs = (
        json.loads((folder / f / "summary.json").read_text()) for f in ("whole", "killed")
    )
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    return in_a_save


def test_killed_three_times_and_resumed_it_is_the_same_run(tmp_path):
    arguments = ["mlp", "--data", "digits", "--epochs", "25", "--checkpoint-every", "3"]
    kill_and_resume(arguments, tmp_path, kills=3, longest_s=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "optimizer"), [("numba", "sgd"), ("numpy", "adam")])
def test_lenet5_killed_twenty_times_and_resumed_is_the_same_run(tmp_path, backend, optimizer):
    arguments = ["lenet5", "--data", "digits", "--epochs", "12", "--limit", "256"]
    arguments += ["--batch-size", "32", "--checkpoint-every", "2", "--optimizer", optimizer]
    arguments += ["--backend", backend]
    assert kill_and_resume(arguments, tmp_path, kills=20, longest_s=2.0) >= 3


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupted_it_says_how_to_resume(tmp_path):
    arguments = ["mlp", "--data", "digits", "--epochs", "2000"]
    output = tmp_path / "a folder"
    process = start(arguments, output)
    assert wait_for(process, (output / "last.safetensors").exists)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted" in err
    assert err.splitlines()[-1].endswith(f"--output '{output}' --resume")
    assert not any(map(is_temporary, output.iterdir()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "mlp"
    settings = Settings(**{**TINY, "epochs": 30, "limit": 600, "augment": False})
    with use_backend("numpy"):
        Run.create(folder, settings).train(resume=False)
    return Run(folder)


@pytest.fixture(autouse=True)
def _numpy():
    with use_backend("numpy"):
        yield


def test_the_folder_holds_what_the_run_was_asked_to_be_and_became(trained):
    config = json.loads((trained.folder / "config.json").read_text())
    assert config["model"] == "mlp"
    assert config["image_shape"] == [1, 8, 8]
    assert config["normalize"]["kind"] == "normalize"
    assert config["seed"] == 0
    assert config["backend"] == "numpy"
    summary = json.loads((trained.folder / "summary.json").read_text())
    assert summary["epochs"] == 30
    assert summary["checkpoint"] == "best.safetensors"
    assert summary["test_accuracy"] > 0.85
    assert summary["seconds"] > 0
    assert {"test_loss", "backend", "seed", "version"} < summary.keys()
    accuracies = [float(row.split(",")[4]) for row in rows_of(trained.folder)]
    assert len(accuracies) == 30
    assert summary["test_accuracy"] == max(accuracies)
    assert summary["last_test_accuracy"] == accuracies[-1]


def test_evaluate_gives_the_accuracy_of_the_summary(trained):
    summary = json.loads((trained.folder / "summary.json").read_text())
    scores = trained.evaluate()
    assert (scores.accuracy, scores.loss) == (summary["test_accuracy"], summary["test_loss"])
    last = trained.evaluate("digits", checkpoint="last")
    assert last.accuracy == float(rows_of(trained.folder)[-1].split(",")[4])


def test_evaluate_refuses_other_images(trained, tmp_path):
    with pytest.raises(ValueError, match="no data set 'cats'"):
        trained.evaluate("cats")
    with pytest.raises(ValueError, match="no checkpoint 'middle'"):
        trained.evaluate(checkpoint="middle")


def test_predict_reads_pictures(trained, tmp_path):
    _, test = digits(8, seed=0)
    chosen = [int(np.flatnonzero(test.labels == digit)[0]) for digit in range(10)]
    paths = [tmp_path / f"{digit}.png" for digit in range(10)]
    for index, path in zip(chosen, paths, strict=True):
        Image.fromarray(test.images[index, :, :, 0]).save(path)
    predictions = trained.predict(paths, top=10)
    right = [ranked[0].name == str(digit) for digit, ranked in enumerate(predictions)]
    assert sum(right) >= 8
    for ranked in predictions:
        probabilities = [p.probability for p in ranked]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert probabilities == sorted(probabilities, reverse=True)
    assert [ranked[:1] for ranked in predictions] == trained.predict(paths)
    for top in (0, 11):
        with pytest.raises(ValueError, match="top"):
            trained.predict(paths, top=top)
    with pytest.raises(FileNotFoundError):
        trained.predict([tmp_path / "none.png"])


def test_one_process_trains_in_a_folder(tmp_path):
    run = Run.create(tmp_path / "run", Settings(**TINY))
    with locked(run.folder), pytest.raises(RuntimeError, match="another process"):
        run.train(resume=False)
    run.train(resume=False)


def test_a_folder_with_something_in_it_is_not_used(tmp_path):
    (tmp_path / ".config.json.1.tmp").touch()  # of a process killed at once
    Run.create(tmp_path, Settings(**TINY)).train(resume=False)
    with pytest.raises(FileExistsError, match="--resume"):
        Run.create(tmp_path, Settings(**TINY))
    with pytest.raises(FileExistsError, match="is a file"):
        Run.create(tmp_path / "config.json", Settings(**TINY))


def test_a_run_without_a_checkpoint_is_replaced(tmp_path):
    first = Run.create(tmp_path, Settings(**TINY))
    for table in ("metrics.csv", "times.csv"):
        (tmp_path / table).write_text("of the first\n")
    second = Run.create(tmp_path, Settings(**{**TINY, "lr": 0.01}))
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert Run(tmp_path).settings.lr == 0.01
    with pytest.raises(RuntimeError, match=r"another run here(.|\n)*--lr: 0.01 in the run, 0.05"):
        first.train(resume=True)
    second.train(resume=False)


@pytest.mark.parametrize("name", ["best.safetensors", "summary.json", "notes.txt"])
def test_a_run_without_a_checkpoint_is_kept_when_there_is_more(tmp_path, name):
    Run.create(tmp_path, Settings(**TINY))
    (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=f"it holds {name}; choose another folder"):
        Run.create(tmp_path, Settings(**TINY))


def test_a_configuration_of_something_else_is_kept(tmp_path):
    (tmp_path / "config.json").write_text('{"theirs": 1}')
    with pytest.raises(FileExistsError, match=r"it holds config\.json; choose another folder"):
        Run.create(tmp_path, Settings(**TINY))
    assert (tmp_path / "config.json").read_text() == '{"theirs": 1}'


def test_an_unreadable_configuration_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run here"):
        Run(tmp_path)
    Run.create(tmp_path / "run", Settings(**TINY))
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["lr"]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json: .*lr"):
        Run(path.parent)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json"):
        Run(path.parent)


def test_settings_have_defaults_that_depend_on_each_other():
    assert Settings(model="lenet5", data="digits").lr == 0.05
    adamw = Settings(model="lenet5", data="digits", optimizer="adamw")
    assert (adamw.lr, adamw.momentum, adamw.weight_decay) == (1e-3, None, 0.01)
    assert Settings(model="lenet5", data="mnist").epochs == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "lenet6"}, "lenet5, mlp, resnet20, resnet50"),
        ({"data": "cats"}, "digits, mnist"),
        ({"optimizer": "lbfgs"}, "sgd, adam, adamw"),
        ({"schedule": "square"}, "constant, step"),
        ({"precision": "int4"}, "ieee, tf32, bf16"),
        ({"precision": "tf32"}, "leave --precision and CONVOLT_PRECISION out"),
        ({"precision": "bf16", "backend": "numba"}, "backend numba has ieee only"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum belongs to sgd"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"warm_up": 99.0}, "warm-up must lie in"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Settings(**{**TINY, **options})


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_the_precision_of_a_run(tmp_path, precision):
    """Products are made in it while it trains and is evaluated; the checkpoint has the masters."""
    options = {"precision": precision, "backend": "emulator", "epochs": 1, "limit": 60}
    run = Run.create(tmp_path / "run", Settings(**{**TINY, **options}))
    with emulator.record() as launches:
        result = run.train(resume=False)
    assert any("_mma" in launch.entry or "_wgmma" in launch.entry for launch in launches)
    assert np.isfinite(result.last.test_loss)
    assert {a.dtype.name for a in run.load_model().state_dict().values()} <= {"float32", "int64"}
    with use_backend("emulator"):
        assert run.evaluate().accuracy == result.best.test_accuracy
    with use_backend("numpy"):  # which has no such precision
        assert abs(run.evaluate().loss - result.best.test_loss) < 0.1


def test_every_schedule_and_optimizer_trains(tmp_path):
    from convolt.training.settings import OPTIMIZERS, SCHEDULES

    for schedule in SCHEDULES:
        for optimizer in OPTIMIZERS:
            folder = tmp_path / f"{schedule}-{optimizer}"
            options = {"schedule": schedule, "optimizer": optimizer, "warm_up": 0.5}
            result = Run.create(folder, Settings(**{**TINY, **options})).train(resume=False)
            assert result.epochs == 2


def test_schedules_end_where_their_help_says():
    ends = {"constant": 1, "step": 0.01, "exponential": 0.01, "inverse-time": 0.1, "cosine": 0}
    for name, end in ends.items():
        settings = Settings(**{**TINY, "schedule": name, "epochs": 50, "warm_up": 2.0, "lr": 0.5})
        optimizer = settings.build_optimizer(build_model("mlp", (1, 8, 8), 10))
        schedule = settings.build_schedule(optimizer, steps_per_epoch=20)
        rates = []
        for _ in range(1000):
            rates.append(optimizer.param_groups[0]["lr"])
            if schedule is not None:
                schedule.step()
        assert rates[0] < 0.02
        assert max(rates) == pytest.approx(0.5)
        assert rates[-1] == pytest.approx(end * 0.5, rel=0.02, abs=1e-5)


@pytest.mark.parametrize(("model", "pixels"), [("lenet5", 28), ("resnet20", 32)])
def test_models_take_cifar10_at_their_size(tmp_path, model, pixels):
    root = tmp_path / "cifar10"
    root.mkdir()
    record = bytes([3]) + bytes(range(256)) * 12
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        Path(root, name).write_bytes(record * 2)
    options = {"model": model, "data": "cifar10", "data_dir": str(root), "epochs": 1}
    run = Run.create(tmp_path / "run", Settings(**{**TINY, **options, "limit": None}))
    assert run.image_shape == (3, pixels, pixels)
    run.train(resume=False)
    other = Run.create(tmp_path / "other", Settings(**{**TINY, "epochs": 1}))
    other.train(resume=False)
    with pytest.raises(ValueError, match="1 channels and 10 classes; cifar10 has 3 channels"):
        other.evaluate("cifar10", str(root))
