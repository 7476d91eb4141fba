"""The command: what it prints, where, and how it exits."""

import json
import os
import pty
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import convolt
from convolt import use_backend
from convolt.cli import main
from convolt.data import digits

COMMAND = [sys.executable, "-c", "from convolt.cli import main; main()"]
MLP = ["train", "mlp", "--data", "digits", "--limit", "200"]


@pytest.fixture(autouse=True)
def _numpy(monkeypatch):
    monkeypatch.delenv("CONVOLT_BACKEND", raising=False)
    monkeypatch.delenv("CONVOLT_DEBUG", raising=False)
    with use_backend("numpy"):
        yield


@pytest.fixture
def convolt_(capsys):
    """Run the command in this process: (exit code, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return exit_.value.code or 0, out, err

    return run


def in_a_process(*arguments, **environment):
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "run"
    with use_backend("numpy"), pytest.raises(SystemExit) as exit_:
        main([*MLP, "--epochs", "10", "--output", str(folder)])
    assert not exit_.value.code
    return folder


def test_the_script_of_the_package_is_main():
    from importlib.metadata import entry_points

    (script,) = entry_points(group="console_scripts", name="convolt")
    assert script.load() is main


def test_version(convolt_):
    assert convolt_("--version") == (0, f"convolt {convolt.__version__}\n", "")


def test_help_lists_the_commands_and_loads_nothing_heavy():
    result = in_a_process("--help", PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 0
    for command in ("train", "evaluate", "predict", "summary", "doctor"):
        assert command in result.stdout
    assert "convolt.cli.train" in result.stderr
    for heavy in ("numba", "sklearn", "PIL", "pooch", "safetensors"):
        assert f" {heavy}\n" not in result.stderr


def test_train_writes_to_a_folder_named_after_the_run(convolt_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = convolt_(*MLP, "--epochs", "2", "--seed", "3", "--backend", "numpy")
    assert code == 0
    assert out.splitlines()[0] == "run: runs/mlp-digits-seed3"
    assert out.splitlines()[-1].startswith("test accuracy: 0.")
    assert "the best on the test set; " in out.splitlines()[-1]
    assert "epoch 2/2" in err
    summary = json.loads((tmp_path / "runs/mlp-digits-seed3/summary.json").read_text())
    assert summary["backend"] == "numpy"
    assert f"test accuracy: {summary['test_accuracy']:.4f}" in out
    assert out.endswith(f"{summary['last_test_accuracy']:.4f} after the last epoch\n")


def test_resume_without_a_seed_finds_the_one_run(convolt_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convolt_(*MLP, "--epochs", "1", "--seed", "3")
    code, out, _ = convolt_(*MLP, "--resume")
    assert (code, out.splitlines()[0]) == (0, "run: runs/mlp-digits-seed3")
    convolt_(*MLP, "--epochs", "1", "--output", "runs/mine")
    code, out, err = convolt_(*MLP, "--resume")
    assert (code, out) == (2, "")
    assert "several runs of mlp on digits; say which one by --output" in err
    assert err.split()[-2:] == ["runs/mine", "runs/mlp-digits-seed3"]
    code, out, err = convolt_(*MLP, "--epochs", "1", "--resume", "--seed", "0")
    assert (code, out.splitlines()[0]) == (0, "run: runs/mlp-digits-seed0")
    assert "nothing to resume in runs/mlp-digits-seed0: starting" in err


def test_a_second_run_needs_resume_or_another_folder(convolt_, trained):
    code, _, err = convolt_(*MLP, "--output", trained)
    assert code == 2
    assert "--resume" in err
    assert "--output" in err


def test_resume_lists_what_differs(convolt_, trained):
    arguments = ["--lr", "0.5", "--seed", "1", "--epochs", "10", "--no-augment"]
    code, _, err = convolt_(*MLP, "--output", trained, "--resume", *arguments)
    assert code == 2
    lines = [line.strip() for line in err.splitlines()]
    assert lines[1:] == [
        "--lr: 0.05 in the run, 0.5 now",
        "--augment: True in the run, False now",
        "--seed: 0 in the run, 1 now",
    ]


def test_resume_takes_what_is_left_out_from_the_run(convolt_, trained):
    before = (trained / "last.safetensors").read_bytes()
    code, out, _ = convolt_("train", "mlp", "--data", "digits", "--output", trained, "--resume")
    assert code == 0
    assert "trained: 10 epochs" in out
    assert (trained / "last.safetensors").read_bytes() == before


def test_the_backend_of_the_environment_counts_as_asked_for(convolt_, trained, monkeypatch):
    monkeypatch.setenv("CONVOLT_BACKEND", "numba")
    code, _, err = convolt_(*MLP, "--output", trained, "--resume")
    assert code == 2
    assert "--backend: numpy in the run, numba now" in err


def test_resume_with_nothing_to_resume_starts_and_says_so(convolt_, tmp_path):
    code, _, err = convolt_(*MLP, "--epochs", "1", "--output", tmp_path / "new", "--resume")
    assert code == 0
    assert "nothing to resume" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data-dir", "."], "digits come with scikit-learn and are not read from a folder"),
        (["--data", "cats"], "there is no data 'cats'; there are digits, mnist"),
        (["--precision", "bf16"], "precision bf16 needs backend cuda or emulator; backend numpy"),
        (["--limit", "0"], "limit must be 1 or more"),
        (["--limit", "9999"], "cannot take the first 9999 of 14"),
        (["--epochs", "0"], "epochs must be 1 or more, it is 0"),
        (["--batch-size", "0"], "batch-size must be 1 or more"),
        (["--lr", "-1"], "lr must be 0 or more, it is -1.0"),
        (["--lr", "nan"], "lr must be 0 or more, it is nan"),
        (["--patience", "0"], "patience must be 1 or more"),
        (["--optimizer", "adam", "--momentum", "0.5"], "momentum belongs to sgd"),
        (["--backend", "banana"], "unknown backend 'banana'"),
        (["--epochs", "many"], "Invalid value for '--epochs'"),
        (["--colour", "red"], "No such option"),
    ],
)
def test_wrong_options_exit_with_2(convolt_, tmp_path, arguments, message):
    code, out, err = convolt_(*MLP, "--output", tmp_path / "run", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_wrong_options_leave_no_folder_behind(convolt_, tmp_path):
    for arguments in (["--epochs", "0"], ["--lr", "-1"], ["--limit", "9999"], ["--warm-up", "99"]):
        convolt_(*MLP, "--output", tmp_path / "run", *arguments)
        assert not (tmp_path / "run").exists()


def test_a_diverging_training_exits_with_1(convolt_, tmp_path):
    code, _, err = convolt_(*MLP, "--output", tmp_path / "run", "--lr", "1e30")
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("convolt: error:")]
    assert "training diverged: epoch 1, step" in line
    assert "lower learning rate" in line


def test_after_diverging_the_folder_takes_another_learning_rate(convolt_, tmp_path):
    arguments = [*MLP, "--epochs", "1", "--output", tmp_path / "run"]
    for further in ([], ["--resume"]):
        code, _, err = convolt_(*arguments, "--lr", "1e30")
        assert code == 1
        assert f"in {tmp_path / 'run'}, where no checkpoint was saved yet" in err
        code, _, err = convolt_(*arguments, "--lr", "0.01", *further)
        assert code == 0
        assert ("nothing to resume" in err) == bool(further)
        assert json.loads((tmp_path / "run" / "config.json").read_text())["lr"] == 0.01
        shutil.rmtree(tmp_path / "run")


def test_a_damaged_checkpoint_exits_with_1(convolt_, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    data = bytearray((run / "best.safetensors").read_bytes())
    data[-1] ^= 1
    (run / "best.safetensors").write_bytes(data)
    code, _, err = convolt_("evaluate", run)
    assert code == 1
    assert err.startswith("convolt: error: ")
    assert len(err.splitlines()) == 1
    assert "best.safetensors" in err
    assert convolt_("evaluate", run, "--checkpoint", "last")[0] == 0


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("CONVOLT_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["evaluate", "/no/run"])


def test_an_error_nobody_meant_names_its_kind(convolt_, monkeypatch, trained):
    def broken(*_args, **_options):
        raise KeyError("w")

    monkeypatch.setattr("convolt.training.Run.evaluate", broken)
    code, _, err = convolt_("evaluate", trained)
    assert code == 1
    assert err == "convolt: error: KeyError: 'w' (CONVOLT_DEBUG=1 shows where)\n"


@pytest.mark.parametrize("backend", ["banana", "cuda", "emulator"])
@pytest.mark.parametrize("command", ["train", "summary", "doctor"])
def test_a_backend_that_cannot_be_used_exits_with_2_and_lists_them(backend, command, tmp_path):
    if backend == "cuda" and not convolt.kernels.backend.why_not("cuda"):
        pytest.skip("cuda is usable here")
    arguments = {
        "train": ["train", "lenet5", "--data", "digits", "--output", str(tmp_path / "run")],
        "summary": ["summary", "lenet5"],
        "doctor": ["doctor"],
    }[command]
    result = in_a_process(*arguments, CONVOLT_BACKEND=backend, CXX="no-such-compiler")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    text = result.stdout + result.stderr
    assert f"CONVOLT_BACKEND={backend}" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["numpy", "usable"] in lines
    assert ["numba", "usable"] in lines
    for name in ("cuda", "emulator"):
        (line,) = [line for line in lines if line[:1] == [name]]
        assert len(line) > 3  # a reason
    assert not (tmp_path / "run").exists()


def test_evaluate_gives_the_accuracy_of_the_summary(convolt_, trained):
    summary = json.loads((trained / "summary.json").read_text())
    code, out, _ = convolt_("evaluate", trained, "--data", "digits", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["test_accuracy"] == summary["test_accuracy"]
    assert report["test_loss"] == summary["test_loss"]
    _, out, _ = convolt_("evaluate", trained)
    assert out.startswith(f"test accuracy: {summary['test_accuracy']:.4f} ")


def test_predict_says_what_is_on_pictures(convolt_, trained, tmp_path):
    _, test = digits(8, seed=0)
    paths = []
    for digit in (0, 6):
        image = test.images[np.flatnonzero(test.labels == digit)[0], :, :, 0]
        paths.append(tmp_path / f"{digit}.png")
        Image.fromarray(image).save(paths[-1])
    code, out, _ = convolt_("predict", trained, *paths)
    assert code == 0
    assert [line.split(": ")[0] for line in out.splitlines()] == [str(path) for path in paths]
    code, out, _ = convolt_("predict", trained, *paths, "--top", "3", "--json")
    report = json.loads(out)
    assert [entry["image"] for entry in report] == [str(path) for path in paths]
    assert [entry["predictions"][0]["class"] for entry in report] == ["0", "6"]
    assert all(len(entry["predictions"]) == 3 for entry in report)


def test_predict_names_what_it_cannot_read(convolt_, trained, tmp_path):
    path = tmp_path / "no.png"
    code, out, err = convolt_("predict", trained, path)
    assert (code, out) == (2, "")
    assert str(path) in err
    path.write_text("no picture")
    code, _, err = convolt_("predict", trained, path)
    assert code == 2
    assert str(path) in err


def test_summary_prints_lenet5_as_the_lecture_tabulates_it(convolt_):
    code, out, _ = convolt_("summary", "lenet5", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["parameters"] == 1_256_080
    convolutions = 28 * 28 * 20 * 25 + 14 * 14 * 50 * 20 * 25
    assert report["multiply_adds"] == convolutions + 2450 * 500 + 500 * 10
    _, out, _ = convolt_("summary", "lenet5", "--batch", "128")
    assert "1,256,080" in out
    assert "20 x 28 x 28" in out
    assert "…" not in out


def test_summary_of_resnet50_is_that_of_imagenet(convolt_):
    with use_backend("numba"):
        code, out, _ = convolt_("summary", "resnet50", "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["input_shape"] == [3, 224, 224]
    assert (facts["parameters"], facts["multiply_adds"]) == (25_557_032, 4_089_184_256)


def test_the_precision_of_the_environment_counts_as_asked_for(convolt_, tmp_path, monkeypatch):
    monkeypatch.setenv("CONVOLT_PRECISION", "tf32")
    code, _, err = convolt_(*MLP, "--output", tmp_path / "run")
    assert code == 2
    assert "precision tf32 needs backend cuda or emulator" in err


def test_summary_of_another_input_size(convolt_):
    _, out, _ = convolt_("summary", "mlp", "--input-size", "3,32,32", "--json")
    assert json.loads(out)["parameters"] == 3072 * 256 + 256 + 2560 + 10
    for size in ("3,32,32", "1,0,28"):
        code, _, err = convolt_("summary", "lenet5", "--input-size", size)
        assert code == 2
        assert "lenet5: images must be" in err
    code, _, err = convolt_("summary", "lenet5", "--input-size", "28x28")
    assert code == 2
    assert "C,H,W" in err


def test_doctor_says_what_is_usable_and_why(convolt_):
    code, out, _ = convolt_("doctor", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["backends"].keys() == {"cuda", "numba", "numpy", "emulator"}
    for state in report["backends"].values():
        assert state["usable"] == (state["why_not"] is None)
    assert report["chosen"] == "numpy"
    assert report["versions"]["convolt"] == convolt.__version__
    assert report["versions"].keys() == {"python", "convolt", "numpy", "numba", "cupy"}
    assert report["cpu"]["threads"] >= 1
    assert report["cache"]
    code, out, _ = convolt_("doctor")
    assert code == 0
    assert "chosen: numpy" in out


@pytest.mark.parametrize("backend", ["numpy", "numba", "emulator"])
@pytest.mark.parametrize("cold", [True, False])
def test_only_a_cold_cache_is_announced(convolt_, tmp_path, monkeypatch, backend, cold):
    if reason := convolt.kernels.backend.why_not(backend):
        pytest.skip(reason)
    monkeypatch.setattr("convolt.kernels.cpu.cache.is_cold", lambda: cold)
    monkeypatch.setattr("convolt.kernels.emulator.build.is_cold", lambda: cold)
    arguments = ["--epochs", "1", "--backend", backend, "--output", tmp_path / "run"]
    code, _, err = convolt_(*MLP, *arguments)
    assert code == 0
    assert ("compiling the kernels" in err) == (cold and backend != "numpy")


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("command", ["summary", "evaluate", "predict"])
def test_every_command_announces_a_cold_cache(
    convolt_, trained, tmp_path, monkeypatch, backend, command
):
    monkeypatch.setattr("convolt.kernels.cpu.cache.is_cold", lambda: True)
    picture = tmp_path / "0.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(picture)
    arguments = {"summary": ["mlp"], "evaluate": [trained], "predict": [trained, picture]}[command]
    with use_backend(backend):
        code, _, err = convolt_(command, *arguments)
    assert code == 0
    assert ("compiling the kernels" in err) == (backend == "numba")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numba", "emulator"])
def test_a_cold_cache_is_announced_once(tmp_path, backend):
    arguments = ["train", "mlp", "--data", "digits", "--limit", "64", "--epochs", "1"]
    environment = {"CONVOLT_CACHE_DIR": str(tmp_path / "cache"), "CONVOLT_BACKEND": backend}
    first = in_a_process(*arguments, "--output", str(tmp_path / "a"), **environment)
    assert first.returncode == 0, first.stderr
    (line,) = [line for line in first.stderr.splitlines() if line.startswith("compiling")]
    assert str(tmp_path / "cache") in line
    second = in_a_process(*arguments, "--output", str(tmp_path / "b"), **environment)
    assert second.returncode == 0, second.stderr
    assert "compiling" not in second.stderr


def test_on_a_terminal_there_is_a_bar(tmp_path):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *MLP, "--epochs", "2", "--backend", "numpy", "--output", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"test accuracy" in out
    assert b"\x1b" in seen
    assert b"epoch 2/2" in seen


def test_the_same_command_again_trains_beside_a_finished_run(convolt_, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = ["runs/mlp-digits-seed0", "runs/mlp-digits-seed0-2", "runs/mlp-digits-seed0-3"]
    for folder in folders[:2]:
        code, out, _ = convolt_(*MLP, "--epochs", "1")
        assert (code, out.splitlines()[0]) == (0, f"run: {folder}")
    contents = [(tmp_path / folder / "last.safetensors").read_bytes() for folder in folders[:2]]
    assert contents[0] == contents[1]
    (tmp_path / folders[1] / "summary.json").unlink()  # as if it had been killed at the end
    code, out, _ = convolt_(*MLP, "--resume")
    assert (code, out.splitlines()[0]) == (0, f"run: {folders[1]}")
    code, out, _ = convolt_(*MLP, "--epochs", "1")
    assert (code, out.splitlines()[0]) == (0, f"run: {folders[2]}")
