"""Training: the Trainer, checkpoints, and runs with their folder."""

from .checkpoint import CheckpointError as CheckpointError
from .evaluation import Scores as Scores
from .evaluation import evaluate as evaluate
from .evaluation import evaluation_loader as evaluation_loader
from .progress import Epoch as Epoch
from .run import Prediction as Prediction
from .run import Run as Run
from .settings import Settings as Settings
from .settings import build_model as build_model
from .trainer import DivergedError as DivergedError
from .trainer import Result as Result
from .trainer import Trainer as Trainer
