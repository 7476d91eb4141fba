"""The Trainer on small nets: what it writes, when it stops, and that a resume is the same run."""

import csv
import errno
import io
import os
import shutil

import numpy as np
import pytest

import convolt
from convolt import layers, optim
from convolt.data import Dataset, Loader, Normalize, RandomCrop, digits
from convolt.models import lenet5
from convolt.training import CheckpointError, DivergedError, Trainer, evaluate, evaluation_loader
from convolt.training.checkpoint import load
from convolt.training.progress import Bar, Lines, progress_for

NAMES = ["best.safetensors", "last.safetensors", "metrics.csv"]


class Interrupted(Exception):
    pass


class StopAfter(Lines):
    """Ends the process, as far as the Trainer can tell, in a step or after an epoch."""

    def __init__(self, *, step=None, epoch=None):
        super().__init__(0, io.StringIO())
        self.step, self.epoch, self.steps = step, epoch, 0

    def due(self):
        self.steps += 1
        if self.steps == self.step:
            raise Interrupted
        return True  # also: reading the metrics at every step changes nothing

    def end(self, row, timing, best):
        if row.epoch == self.epoch:
            raise Interrupted


def small_net():
    return layers.Sequential(
        layers.Conv2d(1, 4, 3, bias=False),
        layers.BatchNorm2d(4),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dropout(0.25),
        layers.Linear(4 * 6 * 6, 10),
    )


def trainer(output, *, optimizer="sgd", lr=0.05, epochs=3, seed=0, net=small_net, **options):
    train, test = (part.subset(160) for part in digits(8, seed=0))
    normalize = Normalize.of(train)
    convolt.manual_seed(seed)
    model = net()
    if optimizer == "sgd":
        rule = optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3)
    else:
        rule = optim.AdamW(model.parameters(), lr=lr)
    loader = Loader(train, 32, shuffle=True, seed=seed, augment=RandomCrop(1), normalize=normalize)
    options.setdefault("progress", Lines(epochs, io.StringIO()))
    schedule = optim.WarmUp(rule, 2, optim.CosineAnnealingLR(rule, epochs * len(loader)))
    return Trainer(
        model,
        rule,
        layers.CrossEntropyLoss(),
        loader,
        evaluation_loader(test, normalize),
        output,
        epochs=epochs,
        schedule=schedule,
        **options,
    )


def contents(folder):
    return {name: (folder / name).read_bytes() for name in NAMES}


def test_it_learns_and_writes_what_it_says(tmp_path, backend):
    run = trainer(tmp_path, epochs=6)
    result = run.run()
    assert run.rows[-1].train_loss < 0.75 * run.rows[0].train_loss
    assert result.best.test_accuracy > 0.6
    assert result.epochs == 6
    assert not result.stopped_early
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert float(rows[2]["test_loss"]) == run.rows[2].test_loss
    assert float(rows[0]["learning_rate"]) > float(rows[5]["learning_rate"])
    assert sorted(p.name for p in tmp_path.iterdir()) == [*NAMES, "times.csv"]


def test_best_holds_the_best_epoch_and_its_scores(tmp_path):
    run = trainer(tmp_path, epochs=6, lr=0.3)
    best = run.run().best
    ranked = sorted(run.rows, key=lambda row: (-row.test_accuracy, row.test_loss, row.epoch))
    assert best == ranked[0]
    arrays, meta = load(tmp_path / "best.safetensors")
    assert meta["epoch"] == best.epoch
    other = trainer(tmp_path, seed=1)
    other.model.load_state_dict(
        {k.removeprefix("model."): v for k, v in arrays.items() if k.startswith("model.")}
    )
    assert evaluate(other.model, other.loss, other.test) == (best.test_loss, best.test_accuracy)


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tmp_path, backend):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer(tmp_path / name, seed=seed).run()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_lenet5_with_the_same_seed_gives_the_same_bytes(tmp_path):
    train = digits(28, seed=0)[0].subset(96)
    for name in "ab":
        convolt.manual_seed(3)
        model = lenet5()
        rule = optim.Adam(model.parameters())
        loader = Loader(train, 32, shuffle=True, seed=3)
        test = evaluation_loader(train, None)
        loss = layers.CrossEntropyLoss()
        progress = Lines(2, io.StringIO())
        Trainer(model, rule, loss, loader, test, tmp_path / name, epochs=2, progress=progress).run()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("checkpoint_every", [1, 2, 100])
@pytest.mark.parametrize(
    "stop", [{"step": 1}, {"step": 3}, {"step": 5}, {"step": 9}, {"epoch": 1}, {"epoch": 3}]
)
def test_a_resumed_run_is_the_same_run(tmp_path, optimizer, checkpoint_every, stop):
    options = {"optimizer": optimizer, "lr": 0.01, "checkpoint_every": checkpoint_every}
    trainer(tmp_path / "whole", **options).run()
    with pytest.raises(Interrupted):
        trainer(tmp_path / "cut", progress=StopAfter(**stop), **options).run()
    convolt.manual_seed(99)
    result = trainer(tmp_path / "cut", **options).run(resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert result.epochs == 3


def test_killed_between_any_two_writes_the_resumed_run_is_the_same(tmp_path, monkeypatch):
    from convolt.training import checkpoint
    from convolt.training import trainer as module

    whole = trainer(tmp_path / "whole", epochs=2, checkpoint_every=2)
    whole.run()
    write, left = module.write_atomically, 0

    def write_some(path, data):
        nonlocal left
        if left == 0:
            raise Interrupted
        left -= 1
        write(path, data)

    monkeypatch.setattr(module, "write_atomically", write_some)
    monkeypatch.setattr(checkpoint, "write_atomically", write_some)
    runs = 0
    while True:
        left, runs = runs + 1, runs + 1  # one more write than the time before
        folder = tmp_path / str(runs)
        try:
            trainer(folder, epochs=2, checkpoint_every=2).run()
            break
        except Interrupted:
            left = 1000
        trainer(folder, epochs=2, checkpoint_every=2).run(resume=True)
        assert contents(folder) == contents(tmp_path / "whole"), f"after {runs} writes"
    assert runs > 8


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = trainer(tmp_path).run()
    before = contents(tmp_path)
    (tmp_path / "metrics.csv").unlink()
    assert trainer(tmp_path).run(resume=True) == first
    assert contents(tmp_path) == before


def test_resume_without_a_checkpoint_starts(tmp_path):
    assert trainer(tmp_path / "new", epochs=1).run(resume=True).epochs == 1


def test_a_stale_temporary_file_is_removed(tmp_path):
    (tmp_path / ".last.safetensors.1.tmp").write_bytes(b"half")
    trainer(tmp_path, epochs=1).run()
    assert not list(tmp_path.glob(".*"))


def test_a_new_run_does_not_replace_another(tmp_path):
    trainer(tmp_path, epochs=1).run()
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"last\.safetensors"):
        trainer(tmp_path, epochs=1).run()
    assert contents(tmp_path) == before


def test_a_full_disk_stops_a_run_that_can_be_resumed(tmp_path, monkeypatch):
    trainer(tmp_path / "whole", checkpoint_every=2).run()
    flush, calls = os.fsync, 0

    def full(file):
        nonlocal calls
        calls += 1
        if calls > 12:  # in epoch 2, at step 2
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    folder = tmp_path / "full"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"safetensors: .*No space left on device"):
            trainer(folder, checkpoint_every=2).run()
    load(folder / "last.safetensors")
    trainer(folder, checkpoint_every=2).run(resume=True)
    assert contents(folder) == contents(tmp_path / "whole")


def test_best_can_stand_in_for_a_damaged_last(tmp_path):
    trainer(tmp_path / "whole").run()
    with pytest.raises(Interrupted):
        trainer(tmp_path / "cut", progress=StopAfter(step=9), checkpoint_every=1).run()
    last = tmp_path / "cut" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"best\.safetensors holds a whole state too"):
        trainer(tmp_path / "cut").run(resume=True)
    shutil.copy(last.with_name("best.safetensors"), last)
    trainer(tmp_path / "cut").run(resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    trainer(tmp_path, epochs=1).run()
    with pytest.raises(CheckpointError, match="other data or batches"):
        trainer(tmp_path, seed=5).run(resume=True)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        trainer(tmp_path, net=linear_net).run(resume=True)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        trainer(tmp_path, optimizer="adamw").run(resume=True)
    other = trainer(tmp_path)
    other.schedule = None
    with pytest.raises(CheckpointError, match="schedule"):
        other.run(resume=True)


def test_it_stops_when_patience_runs_out(tmp_path):
    result = trainer(tmp_path, lr=0.0, epochs=9, patience=2, net=linear_net).run()
    assert result.stopped_early
    assert result.epochs == 3
    assert result.best.epoch == 1  # of equal epochs the first
    again = trainer(tmp_path, lr=0.0, epochs=9, patience=2, net=linear_net).run(resume=True)
    assert again.epochs == 3


def linear_net():
    return layers.Sequential(layers.Flatten(), layers.Linear(64, 10))


def test_patience_that_does_not_run_out_stops_nothing(tmp_path):
    result = trainer(tmp_path, lr=0.0, epochs=3, patience=3, net=linear_net).run()
    assert (result.epochs, result.stopped_early) == (3, False)


def test_divergence_says_where_and_keeps_the_last_finite_checkpoint(tmp_path, backend):
    trainer(tmp_path, epochs=1).run()
    before = (tmp_path / "last.safetensors").read_bytes()
    run = trainer(tmp_path, epochs=2, lr=0.05)
    run.loss = Exploding(at_call=3)
    with pytest.raises(DivergedError, match=r"epoch 2, step 3 of 5: the loss is (nan|inf)") as info:
        run.run(resume=True)
    assert ") in another folder: " in str(info.value)
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    run = trainer(tmp_path, lr=1e38, checkpoint_every=1, net=linear_net)
    with pytest.raises(DivergedError, match="lower learning rate"):
        run.run()
    if (tmp_path / "last.safetensors").exists():
        arrays, _ = load(tmp_path / "last.safetensors")
        assert all(np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f")


def test_divergence_before_the_first_checkpoint_leaves_the_folder_free(tmp_path):
    run = trainer(tmp_path, epochs=1)
    run.loss = Exploding(at_call=3)
    with pytest.raises(DivergedError, match=f"in {tmp_path}, where no checkpoint was saved yet"):
        run.run()
    trainer(tmp_path, epochs=1).run()


class Exploding(layers.CrossEntropyLoss):
    def __init__(self, at_call):
        super().__init__()
        self.calls, self.at_call = 0, at_call

    def forward(self, input, target):
        self.calls += 1
        loss = super().forward(input, target)
        return loss * float("nan") if self.calls == self.at_call else loss


def test_numbers_below_one_are_refused(tmp_path):
    run = trainer(tmp_path)
    parts = run.model, run.optimizer, run.loss, run.train, run.test, tmp_path
    for name in ("epochs", "patience", "checkpoint_every"):
        with pytest.raises(ValueError, match=name):
            Trainer(*parts, **{"epochs": 1, name: 0})


def test_evaluate_weighs_batches_by_their_images_and_keeps_the_mode(rng):
    images = rng.integers(0, 256, (203, 8, 8, 1), np.uint8)
    dataset = Dataset("noise", images, rng.integers(0, 10, 203), tuple("0123456789"))
    model, loss = small_net().train(), layers.CrossEntropyLoss()
    loader = evaluation_loader(dataset, None)
    assert [len(labels) for _, labels in loader.batches(0)] == [200, 3]
    scores = evaluate(model, loss, loader)
    assert model.training
    model.eval()
    with convolt.no_grad():
        logits = model(convolt.Tensor((images / 255).transpose(0, 3, 1, 2).astype(np.float32)))
    labels = convolt.Tensor(dataset.labels)
    assert scores.accuracy == np.mean(logits.numpy().argmax(1) == dataset.labels)
    assert scores.loss == pytest.approx(loss(logits, labels).item(), rel=1e-5)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(tmp_path, monkeypatch):
    monkeypatch.setattr("convolt.training.progress.REFRESH_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    screen, file = Terminal(), io.StringIO()
    assert isinstance(progress_for(2, screen), Bar)
    assert type(progress_for(2, file)) is Lines
    trainer(tmp_path / "a", epochs=2, progress=Bar(2, screen)).run()
    trainer(tmp_path / "b", epochs=2, progress=Lines(2, file)).run()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert "waiting for data" in screen.getvalue()
    assert "5/5" in screen.getvalue()
    lines = file.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert "\x1b" not in file.getvalue()
