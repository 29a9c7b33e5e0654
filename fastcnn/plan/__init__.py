"""Plans: how a whole network runs. A plan is made once per (model, input shape, mode); it chooses memory format and algorithm for each layer, runs layers
that belong together in one pass, and keeps the memory. Trainer and fit use plans by themselves; `model.plan(shape)` shows one.

segment.py  what a segment is          narrow.py  images in the lanes          wide.py    channels-last blocks
dense.py    linear layers and others   memory.py  the block they share         planner.py who runs as what
paths.py    residual sums              means.py   average pooling              plan.py    the result
"""

from fastcnn.plan.plan import Plan
from fastcnn.plan.planner import Planner

__all__ = ["Plan", "Planner"]
