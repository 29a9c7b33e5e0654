"""Layers, containers, losses and initialisers under torch.nn's names: forward(input), backward(grad_output)."""

from fastcnn.nn import init
from fastcnn.nn.activation import (
    ELU,
    GELU,
    SELU,
    LeakyReLU,
    LogSoftmax,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from fastcnn.nn.containers import Concat, Residual, Sequential
from fastcnn.nn.conv import Conv1d, Conv2d, ConvTranspose2d
from fastcnn.nn.dropout import Dropout, VanillaDropout
from fastcnn.nn.linear import Linear
from fastcnn.nn.loss import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, MSELoss, NLLLoss
from fastcnn.nn.module import Module
from fastcnn.nn.norm import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm
from fastcnn.nn.parameter import Parameter
from fastcnn.nn.pool import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d
from fastcnn.nn.shape import Flatten, Identity, Unflatten, Upsample

__all__ = [
    "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "BCELoss", "BCEWithLogitsLoss", "BatchNorm1d", "BatchNorm2d", "Concat",
    "Conv1d", "Conv2d", "ConvTranspose2d", "CrossEntropyLoss", "Dropout", "ELU", "Flatten", "GELU", "GroupNorm", "Identity",
    "LayerNorm", "LeakyReLU", "Linear", "LogSoftmax", "MSELoss", "MaxPool2d", "Module", "NLLLoss", "PReLU", "Parameter", "ReLU",
    "Residual", "SELU", "Sequential", "SiLU", "Sigmoid", "Softmax", "Softplus", "Tanh", "Unflatten", "Upsample", "VanillaDropout", "init",
]  # fmt: skip
