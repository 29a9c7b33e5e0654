"""Optimizers: torch.optim's names, constructor arguments and arithmetic, updating Parameter.data in place."""

from fastcnn.optim.algorithms import SGD, Adagrad, Adam, AdamW, RMSprop
from fastcnn.optim.optimizer import Optimizer

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop"]
