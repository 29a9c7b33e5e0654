"""Metrics, by hand and against scikit-learn's definitions written out."""

import numpy as np
import pytest

from fastcnn import metrics as M
from fastcnn.shapes import ShapeError

TARGET = np.array([0, 0, 0, 1, 1, 2])
PRED = np.array([0, 0, 1, 1, 2, 2])


def test_accuracy_of_labels_and_of_scores():
    assert M.accuracy(PRED, TARGET) == pytest.approx(4 / 6)
    assert M.error_rate(PRED, TARGET) == pytest.approx(2 / 6)
    scores = np.eye(3, dtype=np.float32)[PRED]
    assert M.accuracy(scores, TARGET) == M.accuracy(PRED, TARGET)
    assert M.accuracy(PRED.tolist(), TARGET.astype(np.uint8)) == M.accuracy(PRED, TARGET)


def test_first_of_equal_scores_is_the_prediction():
    assert M.accuracy(np.zeros((2, 3)), np.array([0, 1])) == 0.5


def test_confusion_matrix_has_true_classes_as_rows():
    np.testing.assert_array_equal(M.confusion_matrix(PRED, TARGET, 3), [[2, 1, 0], [0, 1, 1], [0, 0, 1]])
    np.testing.assert_array_equal(M.confusion_matrix(PRED, TARGET), M.confusion_matrix(PRED, TARGET, 3))
    assert M.confusion_matrix(np.eye(5)[PRED], TARGET).shape == (5, 5)
    assert M.confusion_matrix(PRED, TARGET, 4).sum() == 6


def test_confusion_matrix_normalized_by_row():
    matrix = M.confusion_matrix(PRED, TARGET, 4, normalize=True)
    np.testing.assert_allclose(matrix[:3], [[2 / 3, 1 / 3, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 1, 0]])
    assert np.isnan(matrix[3]).all()


def test_per_class_accuracy():
    np.testing.assert_allclose(M.per_class_accuracy(PRED, TARGET, 4), [2 / 3, 1 / 2, 1, np.nan])


def test_precision_recall_f1_are_macro_averages():
    assert M.precision(PRED, TARGET) == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert M.recall(PRED, TARGET) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert M.f1(PRED, TARGET) == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    assert M.f1(PRED, TARGET, num_classes=10) == M.f1(PRED, TARGET)  # classes that never occur do not count


def test_classes_never_predicted_or_never_true_count_zero():
    assert M.precision([0, 0], [0, 1]) == pytest.approx((1 / 2 + 0) / 2)
    assert M.recall([0, 1], [0, 0]) == pytest.approx((1 / 2 + 0) / 2)
    assert M.f1([0, 1], [0, 0]) == pytest.approx((2 / 3 + 0) / 2)


def test_perfect_and_hopeless():
    for metric in (M.accuracy, M.precision, M.recall, M.f1):
        assert metric(TARGET, TARGET) == 1.0
        assert metric((TARGET + 1) % 3, TARGET) == 0.0


def test_top_k_accuracy():
    scores = np.array([[0.1, 0.5, 0.4], [0.6, 0.3, 0.1], [0.2, 0.2, 0.2]])
    target = np.array([2, 2, 1])
    assert [M.top_k_accuracy(scores, target, k) for k in (1, 2, 3)] == pytest.approx([0, 2 / 3, 1])
    assert M.top_k_accuracy(scores, target) == 1.0
    assert M.top_k_accuracy(scores, target, 1) == M.accuracy(scores, target)


def test_top_k_counts_a_nan_score_as_wrong():
    assert M.top_k_accuracy(np.array([[np.nan, 1.0]]), [0], 2) == 0.0


def test_no_samples():
    empty = np.zeros(0, np.int64)
    assert all(np.isnan(metric(empty, empty)) for metric in (M.accuracy, M.error_rate, M.precision, M.recall, M.f1))
    assert np.isnan(M.top_k_accuracy(np.zeros((0, 3)), empty))
    assert M.confusion_matrix(empty, empty).shape == (0, 0)
    np.testing.assert_array_equal(M.confusion_matrix([], [], 2), np.zeros((2, 2)))


def test_metrics_reject_what_does_not_fit():
    with pytest.raises(ShapeError, match="accuracy: 2 predictions but 3 targets"):
        M.accuracy([0, 1], [0, 1, 2])
    with pytest.raises(ShapeError, match=r"target must be \(N,\) labels, got 2 axes \(2x2\)"):
        M.accuracy([0, 1], np.eye(2))
    with pytest.raises(ShapeError, match="got 3 axes"):
        M.accuracy(np.zeros((1, 2, 3)), [0])
    with pytest.raises(TypeError, match="pred must hold integer class numbers, got float64"):
        M.accuracy([0.5], [0])
    with pytest.raises(ValueError, match="pred has class 3 but there are classes 0 to 2"):
        M.confusion_matrix([3], [0], 3)
    with pytest.raises(ValueError, match="target has class -1"):
        M.confusion_matrix([0], [-1], 3)
    with pytest.raises(ShapeError, match=r"scores must be \(2, C\), got 3x4"):
        M.top_k_accuracy(np.zeros((3, 4)), [0, 1])
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        M.top_k_accuracy(np.zeros((1, 4)), [0], 0)
    with pytest.raises(ShapeError, match="scores of no class"):
        M.accuracy(np.zeros((2, 0)), [0, 1])


def test_random_predictions_match_the_definitions():
    rng = np.random.default_rng(0)
    pred, target = rng.integers(0, 7, 500), rng.integers(0, 7, 500)
    matrix = M.confusion_matrix(pred, target, 7)
    for c in range(7):
        for d in range(7):
            assert matrix[c, d] == ((target == c) & (pred == d)).sum()
    recalls = [((pred == c) & (target == c)).sum() / (target == c).sum() for c in range(7)]
    precisions = [((pred == c) & (target == c)).sum() / (pred == c).sum() for c in range(7)]
    assert M.recall(pred, target) == pytest.approx(np.mean(recalls)) == pytest.approx(np.nanmean(M.per_class_accuracy(pred, target)))
    assert M.precision(pred, target) == pytest.approx(np.mean(precisions))
    assert M.f1(pred, target) == pytest.approx(np.mean([2 * p * r / (p + r) for p, r in zip(precisions, recalls, strict=True)]))
