"""LeNet-5 of these layers, and one step of its training. kit is a namespace with the layers: the course's, or what stands in for them."""

from types import SimpleNamespace

import numpy as np

from .utils.ConvolveLayer import ConvolveLayer
from .utils.FullyConnectedLayer import FullyConnectedLayer
from .utils.helper import ReLU, d_ReLU
from .utils.MaxpoolLayer import MaxpoolLayer

COURSE = SimpleNamespace(ConvolveLayer=ConvolveLayer, FullyConnectedLayer=FullyConnectedLayer, MaxpoolLayer=MaxpoolLayer)


class LeNet5:
    def __init__(self, kit=COURSE):
        self.convs = [kit.ConvolveLayer((6, 1, 5, 5)), kit.ConvolveLayer((16, 6, 5, 5)), kit.ConvolveLayer((120, 16, 5, 5))]
        self.pools = [kit.MaxpoolLayer(2), kit.MaxpoolLayer(2)]
        self.dense = [kit.FullyConnectedLayer((120, 84)), kit.FullyConnectedLayer((84, 10))]
        rng = np.random.default_rng(0)
        for layer in (*self.convs, *self.dense):
            layer.W = rng.uniform(-0.1, 0.1, layer.W.shape)

    def step(self, images, labels, lr):
        """The loss, summed; weights updated."""
        inputs, z = [], images
        for conv, pool in zip(self.convs, [*self.pools, None], strict=True):
            z = conv.forward_prop(z)
            z = pool.forward_prop(z) if pool else z
            inputs.append(z)
            z = ReLU(z)
        z = self.dense[0].forward_prop(z[:, :, 0, 0])
        hidden, z = z, self.dense[1].forward_prop(ReLU(z))
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        loss = -np.log(p[np.arange(len(p)), labels]).sum()
        d = self.dense[1].backward_prop(p - np.eye(10)[labels], lr)
        d = self.dense[0].backward_prop(d_ReLU(hidden, d), lr)[:, :, None, None]
        for conv, pool, before in zip(reversed(self.convs), [None, *reversed(self.pools)], reversed(inputs), strict=True):
            d = d_ReLU(before, d)
            d = conv.backward_prop(pool.backward_prop(d) if pool else d, lr)
        return loss
