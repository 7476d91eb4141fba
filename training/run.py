"""A run's folder: ``config.json``, ``metrics.csv``, checkpoints, ``summary.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..data import Dataset, Loader, Normalize, from_json, read_image
from ..data import load as load_data
from ..engine import functional, no_grad
from ..engine.random import manual_seed
from ..kernels.backend import current_backend, use_backend
from ..kernels.precision import use_precision
from ..layers import CrossEntropyLoss, Module
from .checkpoint import load as load_checkpoint
from .evaluation import Scores, evaluate, evaluation_loader, to_tensor
from .files import StrPath, is_temporary, locked, readable_json, write_atomically
from .progress import Lines
from .settings import Settings, build_model
from .trainer import BEST, LAST, METRICS, TIMES, Result, Trainer, arrays_below

CONFIG, SUMMARY = "config.json", "summary.json"
CHECKPOINTS = {"best": BEST, "last": LAST}


class Prediction(NamedTuple):
    """A class and its probability."""

    name: str
    probability: float


class Run:
    """The run in ``folder``.

    Raises:
        FileNotFoundError: There is no ``config.json`` in it.
        ValueError: It is not one that this version can read.
    """

    def __init__(self, folder: StrPath) -> None:
        self.folder = Path(folder)
        path = self.folder / CONFIG
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder}: there is no run here, as there is no {CONFIG}; give the folder "
                "that `convolt train` printed"
            )
        try:
            config = json.loads(path.read_text())
            self.settings = Settings(**{name: config[name] for name in Settings.names()})
            channels, height, width = config["image_shape"]
            self.classes: list[str] = config["classes"]
            self.normalize = from_json(config["normalize"])
            augment = config["augmentation"]
            self.augmentation = None if augment is None else from_json(augment)
            self.version: str = config["version"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: not a configuration that this version can read: {error!r}"
            ) from error
        self.image_shape: tuple[int, int, int] = channels, height, width

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.folder / LAST).exists()

    @classmethod
    def create(cls, folder: StrPath, settings: Settings) -> Run:
        """Prepare a run in ``folder``, which is made: write its ``config.json``.

        A run there that has no checkpoint, as it was stopped or diverged before the first one, is
        replaced. Raises FileExistsError when there is anything else in the folder; RuntimeError
        when another process trains there; errors of loading the data.
        """
        from .. import __version__

        folder = Path(folder)
        _check_free(folder)
        train, _ = _load(settings)
        _, height, width, channels = train.images.shape
        augmentation = settings.augmentation(height)
        config = {
            **asdict(settings),
            "image_shape": [channels, height, width],
            "classes": list(train.classes),
            "normalize": Normalize.of(train).to_json(),
            "augmentation": None if augmentation is None else augmentation.to_json(),
            "version": __version__,
        }
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            _check_free(folder)  # still
            for table in (METRICS, TIMES):
                (folder / table).unlink(missing_ok=True)
            write_atomically(folder / CONFIG, readable_json(config))
        return cls(folder)

    def train(self, *, resume: bool, progress: Lines | None = None) -> Result:
        """Train and write ``summary.json``.

        Raises what ``Trainer.run`` and ``use_backend`` raise, and RuntimeError when another
        process trains here, or has replaced the run.
        """
        settings = self.settings
        with locked(self.folder), use_backend(settings.backend), self._precision():
            self._check_not_replaced()
            train, test = _load(settings)
            manual_seed(settings.seed)
            model = self.build_model()
            loader = Loader(
                train,
                settings.batch_size,
                shuffle=True,
                seed=settings.seed,
                augment=self.augmentation,
                normalize=self.normalize,
            )
            optimizer = settings.build_optimizer(model)
            result = Trainer(
                model,
                optimizer,
                CrossEntropyLoss(),
                loader,
                evaluation_loader(test, self.normalize),
                self.folder,
                epochs=settings.total_epochs,
                schedule=settings.build_schedule(optimizer, len(loader)),
                patience=settings.patience,
                checkpoint_every=settings.checkpoint_every,
                progress=progress,
            ).run(resume=resume)
            summary = {
                "test_accuracy": result.best.test_accuracy,
                "test_loss": result.best.test_loss,
                "checkpoint": BEST,  # whose scores these are
                "best_epoch": result.best.epoch,
                "last_test_accuracy": result.last.test_accuracy,
                "epochs": result.epochs,
                "stopped_early": result.stopped_early,
                "seconds": round(result.seconds, 3),
                "backend": settings.backend,
                "seed": settings.seed,
                "version": self.version,
            }
            write_atomically(self.folder / SUMMARY, readable_json(summary))
        return result

    def _check_not_replaced(self) -> None:
        own = asdict(self.settings)
        del own["data_dir"]  # ``train`` may be told that the data have moved
        if differences := Run(self.folder).settings.differences(own):
            raise RuntimeError(
                f"{self.folder}: another process has put another run here meanwhile; choose "
                "another folder\n  " + "\n  ".join(differences)
            )

    def _precision(self) -> AbstractContextManager[object]:
        """What the run asked for, where the backend has it."""
        asked = self.settings.precision
        if asked is None or current_backend() not in ("cuda", "emulator"):
            return nullcontext()
        return use_precision(asked)

    def build_model(self) -> Module:
        """The untrained model."""
        return build_model(self.settings.model, self.image_shape, len(self.classes))

    def load_model(self, checkpoint: str = "best") -> Module:
        """The trained model, in evaluation mode.

        Raises ValueError for another name than "best" and "last"; CheckpointError.
        """
        if checkpoint not in CHECKPOINTS:
            raise ValueError(f"there is no checkpoint {checkpoint!r}; there are best, last")
        arrays, _ = load_checkpoint(self.folder / CHECKPOINTS[checkpoint])
        model = self.build_model()
        model.load_state_dict(arrays_below("model.", arrays))
        return model.eval()

    def evaluate(
        self, data: str | None = None, data_dir: str | None = None, checkpoint: str = "best"
    ) -> Scores:
        """Loss and accuracy on the test set of ``data`` (that of the run, unless given).

        Raises ValueError where images or classes are not those of the run; errors of loading.
        """
        settings = self.settings
        _, height, _ = self.image_shape
        data_dir = data_dir or (settings.data_dir if data in (None, settings.data) else None)
        _, test = load_data(data or settings.data, root=data_dir, size=height, seed=settings.seed)
        if test.images.shape[3] != self.image_shape[0] or len(test.classes) != len(self.classes):
            raise ValueError(
                f"{self.folder} was trained on images of {self.image_shape[0]} channels and "
                f"{len(self.classes)} classes; {test.name} has {test.images.shape[3]} channels "
                f"and {len(test.classes)} classes"
            )
        loader = evaluation_loader(test, self.normalize)
        with self._precision():
            return evaluate(self.load_model(checkpoint), CrossEntropyLoss(), loader)

    def predict(
        self, images: Sequence[StrPath], top: int = 1, checkpoint: str = "best"
    ) -> list[list[Prediction]]:
        """For each picture the ``top`` most probable classes, the most probable first.

        Raises ValueError for ``top`` below 1 and pictures that cannot be read;
        FileNotFoundError; CheckpointError.
        """
        if not 1 <= top <= len(self.classes):
            raise ValueError(f"top must lie in 1 .. {len(self.classes)} classes, it is {top}")
        channels, height, width = self.image_shape
        pixels = [read_image(path, (height, width), channels) for path in images]
        model = self.load_model(checkpoint)
        predictions = []
        for picture in pixels:
            batch = self.normalize(picture[None], np.random.default_rng(0))  # draws nothing
            with no_grad(), self._precision():
                logits = model(to_tensor(batch.transpose(0, 3, 1, 2)))
                probabilities = functional.softmax(logits.float(), 1).numpy()[0]
            order = np.argsort(-probabilities, kind="stable")[:top]
            predictions.append(
                [Prediction(self.classes[i], float(probabilities[i])) for i in order]
            )
        return predictions


def _check_free(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another folder by --output")
    if (folder / LAST).exists():
        raise FileExistsError(
            f"{folder} holds a run; go on with it by --resume, or choose another folder by --output"
        )
    if not folder.exists():
        return
    try:
        Run(folder)
        replaceable = {CONFIG, METRICS, TIMES}  # what it may have written without a checkpoint
    except (FileNotFoundError, ValueError):  # such a name is then somebody else's
        replaceable = set()
    names = {path.name for path in folder.iterdir() if not is_temporary(path)}
    if others := sorted(names - replaceable):
        raise FileExistsError(
            f"{folder} is not empty, it holds {', '.join(others[:5])}; choose another folder by "
            "--output"
        )


def _load(settings: Settings) -> tuple[Dataset, Dataset]:
    """The training set, cut to ``limit``, and the test set, at the model's size."""
    train, test = load_data(
        settings.data,
        root=settings.data_dir,
        size=settings.input_size,
        seed=settings.seed,
    )
    return (train if settings.limit is None else train.subset(settings.limit)), test
