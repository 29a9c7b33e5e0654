"""The layers and the network of the assignment. "naive" are the loops, "im2col" the course's fast layers with an extension that works: fastcnn's, as
the course's no longer builds."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastcnn.compat import _install, cs231n

from . import layers

FOLDER = Path(__file__).parent


def _package(name, level):
    """A copy of this package with fastcnn installed to that level; level 1 is the extension alone."""
    if name not in sys.modules:
        _install.install(replace(cs231n.course(level, name), name=name))
        spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)])
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return lambda module: importlib.import_module(f"{name}.{module}")


def _course():
    return _package("cs231n_as_it_is", 1)


def _conv(shape, filters, naive, dtype=np.float64):
    def make():
        rng = np.random.default_rng(0)
        x, w, b = (rng.standard_normal(s).astype(dtype) for s in (shape, filters, filters[:1]))
        dout = rng.standard_normal((shape[0], filters[0], *shape[2:])).astype(dtype)
        param = {"stride": 1, "pad": filters[2] // 2}

        def call(forward, backward):
            out, cache = forward(x, w, b, param)
            return [out, *backward(dout, cache)]

        fast = _course()("fast_layers")
        calls = {"naive": lambda: call(layers.conv_forward_naive, layers.conv_backward_naive)} if naive else {}
        calls["im2col"] = lambda: call(fast.conv_forward_fast, fast.conv_backward_fast)
        calls["fastcnn"] = lambda: call(cs231n.conv_forward_fast, cs231n.conv_backward_fast)
        return calls if dtype == np.float64 else calls | {"limit": 1e-3}

    return make


def _pool(shape, naive):
    def make():
        rng = np.random.default_rng(0)
        x, dout = rng.standard_normal(shape), rng.standard_normal((*shape[:2], shape[2] // 2, shape[3] // 2))
        param = {"pool_height": 2, "pool_width": 2, "stride": 2}

        def call(forward, backward):
            out, cache = forward(x, param)
            return [out, backward(dout, cache)]

        fast = _course()("fast_layers")
        calls = {"naive": lambda: call(layers.max_pool_forward_naive, layers.max_pool_backward_naive)} if naive else {}
        calls["im2col"] = lambda: call(fast.max_pool_forward_fast, fast.max_pool_backward_fast)
        calls["fastcnn"] = lambda: call(cs231n.max_pool_forward_fast, cs231n.max_pool_backward_fast)
        return calls

    return make


def _batchnorm():
    rng = np.random.default_rng(0)
    x, dout, gamma, beta = rng.standard_normal((50, 32, 32, 32)), rng.standard_normal((50, 32, 32, 32)), np.ones(32), np.zeros(32)

    def call(kit):
        out, cache = kit.spatial_batchnorm_forward(x, gamma, beta, {"mode": "train"})
        return [out, *kit.spatial_batchnorm_backward(dout, cache)]

    return {"im2col": lambda: call(layers), "fastcnn": lambda: call(cs231n)}


def _step(level, dtype=np.float32):
    """A step of the three-layer network as the Solver makes it: loss and gradients of 50 images, then Adam on every weight."""

    def make():
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((50, 3, 32, 32)), rng.integers(0, 10, 50)  # the Solver hands float64 images to float32 weights

        def step(package):
            network, optim, configs = package("classifiers.cnn").ThreeLayerConvNet(weight_scale=1e-2, reg=1e-3, dtype=dtype), package("optim"), {}

            def call():
                loss, grads = network.loss(X, y)
                for name, w in network.params.items():
                    network.params[name], configs[name] = optim.adam(w, grads[name].astype(w.dtype), configs.get(name))
                return loss

            return call

        return {"im2col": step(_course()), "fastcnn": step(_package(f"cs231n_level_{level}", level)), "limit": 1e-6}

    return make


WORKLOADS = [
    ("conv 4@3x3 forward and backward, 2 images 3x16x16", _conv((2, 3, 16, 16), (4, 3, 3, 3), True)),
    ("conv 32@7x7 forward and backward, 50 images 3x32x32, float64", _conv((50, 3, 32, 32), (32, 3, 7, 7), False)),
    ("conv 64@3x3 forward and backward, 50 images 32x16x16, float64", _conv((50, 32, 16, 16), (64, 32, 3, 3), False)),
    ("the same in float32", _conv((50, 32, 16, 16), (64, 32, 3, 3), False, np.float32)),
    ("max pool 2x2 forward and backward, 2 images 3x16x16", _pool((2, 3, 16, 16), True)),
    ("max pool 2x2 forward and backward, 50 images 32x32x32", _pool((50, 32, 32, 32), False)),
    ("spatial batch norm forward and backward, 50 images 32x32x32", _batchnorm),
    ("ThreeLayerConvNet, a step with Adam, 50 images, install(level=2)", _step(2)),
    ("ThreeLayerConvNet, a step with Adam, 50 images, install()", _step(3)),
    ("ThreeLayerConvNet, the same with float64 weights", _step(3, np.float64)),
]
