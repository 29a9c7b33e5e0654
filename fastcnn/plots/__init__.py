"""Figures of runs, networks and experiments. matplotlib (extra `plot`), through its object interface only: no pyplot, no global state,
so they work in threads, servers and notebooks alike. Every function returns a matplotlib Figure; save() writes one.
"""

from fastcnn.plots.figure import save
from fastcnn.plots.layers import feature_maps, features, filters, samples
from fastcnn.plots.run import class_accuracy, confusion_matrix, curves, error_rate

__all__ = ["class_accuracy", "confusion_matrix", "curves", "error_rate", "feature_maps", "features", "filters", "samples", "save"]
