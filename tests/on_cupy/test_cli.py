"""The command on a machine with a GPU."""

import json

import numpy as np
import pytest
from PIL import Image

from convolt.cli import main


@pytest.fixture
def convolt_(cupy, capsys, monkeypatch):
    monkeypatch.setenv("CONVOLT_BACKEND", "cuda")

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert not exit_.value.code, err
        return out

    return run


def test_train_evaluate_and_predict(convolt_, tmp_path):
    run = tmp_path / "run"
    out = convolt_("train", "mlp", "--data", "digits", "--limit", 64, "--epochs", 1,
                   "--output", run)  # fmt: skip
    assert "trained: 1 epochs" in out
    assert json.loads((run / "summary.json").read_text())["backend"] == "cuda"
    scores = json.loads(convolt_("evaluate", run, "--json"))
    summary = json.loads((run / "summary.json").read_text())
    assert scores["backend"] == "cuda"
    assert scores["test_loss"] == summary["test_loss"]
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    (report,) = json.loads(convolt_("predict", run, tmp_path / "black.png", "--top", 10, "--json"))
    assert sum(p["probability"] for p in report["predictions"]) == pytest.approx(1, abs=1e-5)


def test_doctor_chooses_cuda(convolt_):
    report = json.loads(convolt_("doctor", "--json"))
    assert (report["chosen"], report["backends"]["cuda"]["usable"]) == ("cuda", True)
