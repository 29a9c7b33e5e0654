"""Training: Trainer (one step at a time), fit (the loop), History (what happened), RunFolder (where it is kept)."""

from fastcnn.train.compare import StepTimes, compare_step_times
from fastcnn.train.diagnose import NotFinite, first_not_finite
from fastcnn.train.folder import RunFolder
from fastcnn.train.history import History
from fastcnn.train.interrupt import TrainingInterrupted
from fastcnn.train.logs import JsonLines, TensorBoard
from fastcnn.train.loop import StopTraining, TrainingDiverged, fit
from fastcnn.train.trainer import Trainer

__all__ = [
    "History", "JsonLines", "NotFinite", "RunFolder", "StepTimes", "StopTraining", "TensorBoard", "Trainer", "TrainingDiverged",
    "TrainingInterrupted", "compare_step_times", "first_not_finite", "fit",
]  # fmt: skip
