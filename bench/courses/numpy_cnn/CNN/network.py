"""conv - relu - conv - relu - pool - dense - relu - dense - softmax: the gradients of one image, and those of a batch added up.

kit is a namespace with the four functions: the course's, or what stands in for them.
"""

from types import SimpleNamespace

import numpy as np

from . import backward, forward
from .forward import softmax

COURSE = SimpleNamespace(**vars(forward), convolutionBackward=backward.convolutionBackward, maxpoolBackward=backward.maxpoolBackward)


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    shapes = (8, 1, 5, 5), (8, 8, 5, 5), (128, 800), (10, 128)
    weights = [rng.standard_normal(shape) / np.sqrt(np.prod(shape)) for shape in shapes[:2]] + [rng.standard_normal(shape) * 0.01 for shape in shapes[2:]]
    return weights + [np.zeros((shape[0], 1)) for shape in shapes]


def conv(image, label, params, kit=COURSE):
    f1, f2, w3, w4, b1, b2, b3, b4 = params
    conv1 = kit.convolution(image, f1, b1, 1)
    conv1[conv1 <= 0] = 0
    conv2 = kit.convolution(conv1, f2, b2, 1)
    conv2[conv2 <= 0] = 0
    pooled = kit.maxpool(conv2, 2, 2)
    flat = pooled.reshape(-1, 1)
    z = w3.dot(flat) + b3
    z[z <= 0] = 0
    probs = softmax(w4.dot(z) + b4)
    loss = -np.sum(label * np.log(probs))
    dout = probs - label
    dz = w4.T.dot(dout)
    dz[z <= 0] = 0
    dconv2 = kit.maxpoolBackward(w3.T.dot(dz).reshape(pooled.shape), conv2, 2, 2)
    dconv2[conv2 <= 0] = 0
    dconv1, df2, db2 = kit.convolutionBackward(dconv2, conv1, f2, 1)
    dconv1[conv1 <= 0] = 0
    _, df1, db1 = kit.convolutionBackward(dconv1, image, f1, 1)
    return [df1, df2, dz.dot(flat.T), dout.dot(z.T), db1, db2, dz, dout], loss


def batch(images, labels, params, kit=COURSE):
    """(the gradients added up, the mean loss) of (N, 1, 28, 28)."""
    total, cost = [np.zeros(p.shape) for p in params], 0.0
    for image, label in zip(images, labels, strict=True):
        grads, loss = conv(image, np.eye(10)[label][:, None], params, kit)
        total = [a + b for a, b in zip(total, grads, strict=True)]
        cost += loss
    return total, cost / len(images)
