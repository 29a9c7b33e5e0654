"""Affine, ReLU, normalisation, dropout and the losses of layers.py: forward returns (out, cache), backward takes (dout, cache)."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ... import functional as F
from ...backend import current
from ...functional._check import array
from ...options import number
from ...shapes import ShapeError, by
from .._arrays import class_numbers, common

Three = tuple[np.ndarray, np.ndarray, np.ndarray]

# --- affine -----------------------------------------------------------------------------------------------------------------------


def _rows(op: str, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """(N, d_1, ..., d_k) as (N, D), fit for (D, M)."""
    if w.ndim != 2 or not w.size:
        raise ShapeError(f"{op}: w must be 2-D (D, M) with no axis of 0, got {by(w.shape) or 'scalar'}")
    if not x.ndim or prod(x.shape[1:]) != w.shape[0]:
        raise ShapeError(f"{op}: x {by(x.shape) or 'scalar'} has {prod(x.shape[1:])} values per row but w {by(w.shape)} takes {w.shape[0]}")
    return x.reshape(len(x), w.shape[0])


def affine_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, tuple]:
    """(N, d_1, ..., d_k) x (D, M) + (M,) -> ((N, M), cache), D = d_1*...*d_k; cache = (x, w, b)."""
    op, cache = "affine_forward", (x, w, b)
    x, w, b = (array(value, op, name) for value, name in zip(common(op, x, w, b), "xwb", strict=True))
    if b.size != w.shape[-1]:
        raise ShapeError(f"{op}: b has shape {by(b.shape) or 'scalar'} but w {by(w.shape)} has {w.shape[-1]} columns")
    # x @ w is what a linear layer with weight w does backwards: no transposed copy of w is needed that way
    out = np.ascontiguousarray(current().linear_grad_input(_rows(op, x, w), w))
    out += b.reshape(-1)
    return out, cache


def affine_backward(dout: np.ndarray, cache: tuple, need_dx: bool = True) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """(dx, dw, db) in the shapes of x, w and b; need_dx=False: dx is None."""
    op, (x, w, b) = "affine_backward", cache
    shape = np.shape(b)
    dout, x, w = (array(value, op, name) for value, name in zip(common(op, dout, x, w), ("dout", "x", "w"), strict=True))
    rows = _rows(op, x, w)
    if dout.shape != (len(x), w.shape[1]):
        raise ShapeError(f"{op}: dout has shape {by(dout.shape) or 'scalar'} but the layer's output is {len(x)}x{w.shape[1]}")
    backend = current()
    dx = np.ascontiguousarray(backend.linear(dout, w, None)).reshape(x.shape) if need_dx else None
    return dx, np.ascontiguousarray(backend.linear_grad_weight(rows, dout)), backend.linear_grad_bias(dout).reshape(shape)


def relu_forward(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(max(x, 0), cache); cache = x."""
    return F.relu(*common("relu_forward", x)), x


def relu_backward(dout: np.ndarray, cache: np.ndarray) -> np.ndarray:
    """dout where x > 0, else 0."""
    return F.relu_backward(*common("relu_backward", dout, cache))


# --- normalisation ----------------------------------------------------------------------------------------------------------------


class NormCache(NamedTuple):
    """What the backward of a normalisation needs."""

    x: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    eps: float
    training: bool = True
    mean: np.ndarray | None = None
    var: np.ndarray | None = None
    groups: int = 1


def _cache(op: str, cache: Any) -> NormCache:
    if not isinstance(cache, NormCache):
        forward = op.replace("backward_alt", "forward").replace("backward", "forward")
        raise TypeError(f"{op}: the cache is not one of fastcnn's {forward}, got {type(cache).__name__}: run the forward pass again")
    return cache


def _batchnorm_forward(op: str, x: Any, gamma: Any, beta: Any, bn_param: MutableMapping[str, Any]) -> tuple[np.ndarray, NormCache]:
    mode, eps, momentum = bn_param["mode"], float(bn_param.get("eps", 1e-5)), float(bn_param.get("momentum", 0.9))
    x, gamma, beta = common(op, x, gamma, beta)
    channels, count = x.shape[1], x.size // x.shape[1] if x.shape[1] else 0
    running = [np.asarray(bn_param.get(name, np.zeros(channels, x.dtype))) for name in ("running_mean", "running_var")]
    if mode == "train":
        if count == 1:  # the value is its own mean: z is 0
            mean, var = x.reshape(channels).copy(), np.zeros(channels, x.dtype)
            out = F.batch_norm(x, mean, var, gamma, beta, eps=eps)
        else:
            out, mean, var = F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps, return_stats=True)
        if count:
            bn_param["running_mean"] = momentum * running[0] + (1 - momentum) * mean
            bn_param["running_var"] = momentum * running[1] + (1 - momentum) * var
        else:
            bn_param["running_mean"], bn_param["running_var"] = running
        return out, NormCache(x, gamma, beta, eps, True, mean, var)
    if mode != "test":
        raise ValueError(f'{op}: mode must be "train" or "test", got {mode!r}')
    mean, var = (value.astype(x.dtype) for value in running)
    bn_param["running_mean"], bn_param["running_var"] = running
    return F.batch_norm(x, mean, var, gamma, beta, eps=eps), NormCache(x, gamma, beta, eps, False, mean, var)


def _batchnorm_backward(op: str, dout: Any, cache: Any) -> Three:
    c = _cache(op, cache)
    dout, x, gamma, mean, var = common(op, dout, c.x, c.gamma, c.mean, c.var)
    return F.batch_norm_backward(dout, x, weight=gamma, training=c.training, eps=c.eps, mean=mean, var=var)


def batchnorm_forward(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, bn_param: MutableMapping[str, Any]) -> tuple[np.ndarray, NormCache]:
    """(N,D), per feature. bn_param: mode 'train' or 'test', eps (1e-5), momentum (0.9, the share that the old value keeps), running_mean, running_var;
    the last two are updated there in training, the variance with the biased one."""
    return _batchnorm_forward("batchnorm_forward", x, gamma, beta, bn_param)


def batchnorm_backward(dout: np.ndarray, cache: NormCache) -> Three:
    """(dx, dgamma, dbeta)."""
    return _batchnorm_backward("batchnorm_backward", dout, cache)


def batchnorm_backward_alt(dout: np.ndarray, cache: NormCache) -> Three:
    """batchnorm_backward."""
    return _batchnorm_backward("batchnorm_backward_alt", dout, cache)


def spatial_batchnorm_forward(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, bn_param: MutableMapping[str, Any]
) -> tuple[np.ndarray, NormCache]:
    """(N,C,H,W), per channel; otherwise batchnorm_forward."""
    return _batchnorm_forward("spatial_batchnorm_forward", x, gamma, beta, bn_param)


def spatial_batchnorm_backward(dout: np.ndarray, cache: NormCache) -> Three:
    """(dx, dgamma, dbeta)."""
    return _batchnorm_backward("spatial_batchnorm_backward", dout, cache)


def layernorm_forward(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, ln_param: Mapping[str, Any]) -> tuple[np.ndarray, NormCache]:
    """(N,D), per row. ln_param: eps (1e-5)."""
    x, gamma, beta = common("layernorm_forward", x, gamma, beta)
    eps = float(ln_param.get("eps", 1e-5))
    return F.layer_norm(x, x.shape[1:], gamma, beta, eps), NormCache(x, gamma, beta, eps)


def layernorm_backward(dout: np.ndarray, cache: NormCache) -> Three:
    """(dx, dgamma, dbeta)."""
    c = _cache("layernorm_backward", cache)
    dout, x, gamma = common("layernorm_backward", dout, c.x, c.gamma)
    return F.layer_norm_backward(dout, x, x.shape[1:], gamma, eps=c.eps)


def spatial_groupnorm_forward(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, G: int, gn_param: Mapping[str, Any]
) -> tuple[np.ndarray, NormCache]:
    """(N,C,H,W), per image over each of G runs of channels; gamma and beta are (1,C,1,1) or (C,). gn_param: eps (1e-5)."""
    x, gamma, beta = common("spatial_groupnorm_forward", x, gamma, beta)
    eps = float(gn_param.get("eps", 1e-5))
    out = F.group_norm(x, G, gamma.reshape(-1), beta.reshape(-1), eps)
    return out, NormCache(x, gamma, beta, eps, groups=G)


def spatial_groupnorm_backward(dout: np.ndarray, cache: NormCache) -> Three:
    """(dx, dgamma, dbeta), the last two in the shapes of gamma and beta."""
    c = _cache("spatial_groupnorm_backward", cache)
    dout, x, gamma = common("spatial_groupnorm_backward", dout, c.x, c.gamma)
    dx, dgamma, dbeta = F.group_norm_backward(dout, x, c.groups, gamma.reshape(-1), eps=c.eps)
    return dx, dgamma.reshape(c.gamma.shape), dbeta.reshape(c.beta.shape)


# --- dropout ----------------------------------------------------------------------------------------------------------------------


def _dropout_forward(op: str, x: Any, dropout_param: Mapping[str, Any], drop: bool) -> tuple[np.ndarray, tuple]:
    (x,) = common(op, x)
    p, mode = number(dropout_param["p"], op, "p", 0, 1), dropout_param["mode"]
    if "seed" in dropout_param:
        np.random.seed(dropout_param["seed"])  # noqa: NPY002 (the course's generator: the same seed must give the same mask)
    if mode == "train":
        draws = np.random.rand(*x.shape)  # noqa: NPY002
        kept = draws >= p if drop else draws < p
        mask = kept.astype(x.dtype)
        mask /= (1 - p) if drop else p
        return x * mask, (dropout_param, mask)
    if mode != "test":
        raise ValueError(f'{op}: mode must be "train" or "test", got {mode!r}')
    return x.copy(), (dropout_param, None)


def dropout_forward(x: np.ndarray, dropout_param: Mapping[str, Any]) -> tuple[np.ndarray, tuple]:
    """Inverted dropout: p is the probability to *keep* a value, as the course has it since 2018. dropout_param: p, mode 'train' or 'test', seed (of np.random).

    cache = (dropout_param, mask), the mask being 0 or 1/p.
    """
    return _dropout_forward("dropout_forward", x, dropout_param, drop=False)


def dropout_forward_2016(x: np.ndarray, dropout_param: Mapping[str, Any]) -> tuple[np.ndarray, tuple]:
    """The same with p the probability to *drop* a value, as the course had it until 2017; install() sees in the docstring which one is meant."""
    return _dropout_forward("dropout_forward", x, dropout_param, drop=True)


def dropout_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """dout * mask in training, dout in test mode."""
    dropout_param, mask = cache
    (dout,) = common("dropout_backward", dout)
    return dout * mask if dropout_param["mode"] == "train" else dout.copy()


# --- losses -----------------------------------------------------------------------------------------------------------------------


def softmax_loss(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """(mean of -log softmax(x)[y], dx); scores (N,C), class numbers (N,)."""
    (x,) = common("softmax_loss", x)
    y = np.asarray(y)
    return F.cross_entropy(x, y), F.cross_entropy_backward(1.0, x, y)


def svm_loss(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """(mean over the rows of the sum of max(0, x[j] - x[y] + 1) over the other classes j, dx); scores (N,C), class numbers (N,)."""
    (x,) = common("svm_loss", x)
    y = class_numbers("svm_loss", "y", y, x)
    rows = np.arange(len(x))
    margins = x - x[rows, y][:, None] + 1
    margins[rows, y] = 0
    dx = (margins > 0).astype(x.dtype)
    loss = (margins * dx).sum() / len(x)
    dx[rows, y] = -dx.sum(axis=1)
    dx /= len(x)
    return loss, dx
