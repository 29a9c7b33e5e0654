"""Classification metrics. Predictions are class numbers (N,) or scores (N, C), of which the largest counts, the first one in a tie."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fastcnn.options import integer
from fastcnn.shapes import ShapeError, by


def _labels(values: ArrayLike, op: str, argument: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim == 2 and argument != "target":
        if values.shape[1] == 0:
            raise ShapeError(f"{op}: {argument} is {by(values.shape)}: scores of no class")
        return values.argmax(axis=1)
    if values.ndim != 1:
        wanted = "(N,) labels" if argument == "target" else "(N,) labels or (N, C) scores"
        raise ShapeError(f"{op}: {argument} must be {wanted}, got {values.ndim} axes ({by(values.shape) or 'a scalar'})")
    if values.dtype.kind not in "iub" and values.size:
        raise TypeError(f"{op}: {argument} must hold integer class numbers, got {values.dtype}")
    return values.astype(np.int64, copy=False)


def _pair(pred: ArrayLike, target: ArrayLike, op: str) -> tuple[np.ndarray, np.ndarray]:
    pred, target = _labels(pred, op, "pred"), _labels(target, op, "target")
    if len(pred) != len(target):
        raise ShapeError(f"{op}: {len(pred)} predictions but {len(target)} targets")
    return pred, target


def accuracy(pred: ArrayLike, target: ArrayLike) -> float:
    """Share of right predictions; nan for no samples."""
    pred, target = _pair(pred, target, "accuracy")
    return float(np.count_nonzero(pred == target) / len(target)) if len(target) else float("nan")


def error_rate(pred: ArrayLike, target: ArrayLike) -> float:
    """1 - accuracy."""
    return 1.0 - accuracy(pred, target)


def top_k_accuracy(scores: ArrayLike, target: ArrayLike, k: int = 5) -> float:
    """Share of samples whose class is among the k largest scores; of equal scores the lower class number comes first. nan for no samples."""
    scores, target = np.asarray(scores), _labels(target, "top_k_accuracy", "target")
    if scores.ndim != 2 or len(scores) != len(target):
        raise ShapeError(f"top_k_accuracy: scores must be ({len(target)}, C), got {by(scores.shape)}")
    integer(k, "top_k_accuracy", "k", 1)
    if not len(target):
        return float("nan")
    classes = scores.shape[1]
    _check_range(target, classes, "top_k_accuracy", "target")
    own = np.take_along_axis(scores, target[:, None], axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(classes) < target[:, None]))
    hit = (before.sum(axis=1) < k) & ~np.isnan(own[:, 0])
    return float(hit.mean())


def _check_range(labels: np.ndarray, classes: int, op: str, argument: str) -> None:
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"{op}: {argument} has class {wrong} but there are classes 0 to {classes - 1}")


def confusion_matrix(pred: ArrayLike, target: ArrayLike, num_classes: int | None = None, normalize: bool = False) -> np.ndarray:
    """(num_classes, num_classes) counts, row = true class, column = predicted class.

    num_classes defaults to the number of scores, else to the largest label + 1. normalize divides each row by its sum (float64;
    the row of a class without samples is nan), so that the diagonal is the accuracy per class.
    """
    scores = np.asarray(pred)
    pred, target = _pair(pred, target, "confusion_matrix")
    if num_classes is not None:
        integer(num_classes, "confusion_matrix", "num_classes", 1)
    else:
        num_classes = scores.shape[1] if scores.ndim == 2 else int(max(pred.max(initial=-1), target.max(initial=-1))) + 1
    _check_range(pred, num_classes, "confusion_matrix", "pred")
    _check_range(target, num_classes, "confusion_matrix", "target")
    counts = np.bincount(target * num_classes + pred, minlength=num_classes**2).reshape(num_classes, num_classes)
    return _share(counts, counts.sum(axis=1, keepdims=True), np.nan) if normalize else counts


def _share(part: np.ndarray, whole: np.ndarray, empty: float) -> np.ndarray:
    """part / whole, `empty` where whole is 0."""
    result = np.full(np.broadcast_shapes(part.shape, whole.shape), empty)
    return np.divide(part, whole, out=result, where=whole != 0)


def per_class_accuracy(pred: ArrayLike, target: ArrayLike, num_classes: int | None = None) -> np.ndarray:
    """(num_classes,) share of each class's samples that are predicted right; nan for a class without samples."""
    matrix = confusion_matrix(pred, target, num_classes)
    return _share(matrix.diagonal(), matrix.sum(axis=1), np.nan)


def _rates(pred: ArrayLike, target: ArrayLike, num_classes: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(precision, recall, f1) per class, over the classes that occur in pred or target; 0 where the denominator is 0."""
    matrix = confusion_matrix(pred, target, num_classes)
    right, predicted, actual = matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)
    present = predicted + actual > 0
    right, predicted, actual = right[present], predicted[present], actual[present]
    return _share(right, predicted, 0.0), _share(right, actual, 0.0), _share(2 * right, predicted + actual, 0.0)


def _macro(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def precision(pred: ArrayLike, target: ArrayLike, num_classes: int | None = None) -> float:
    """Macro average of right / predicted over the classes that occur (a class never predicted counts 0); nan for no samples."""
    return _macro(_rates(pred, target, num_classes)[0])


def recall(pred: ArrayLike, target: ArrayLike, num_classes: int | None = None) -> float:
    """Macro average of right / actual over the classes that occur (a class without samples that is predicted counts 0); nan for no samples."""
    return _macro(_rates(pred, target, num_classes)[1])


def f1(pred: ArrayLike, target: ArrayLike, num_classes: int | None = None) -> float:
    """Macro average of 2 * right / (predicted + actual), the harmonic mean of precision and recall, over the classes that occur."""
    return _macro(_rates(pred, target, num_classes)[2])
