"""Numpy-CNN (one CHW image at a time): what its four functions compute, in plain loops, from the description of the interface."""

import numpy as np


def _places(shape, f, s):
    for i in range((shape[1] - f) // s + 1):
        for j in range((shape[2] - f) // s + 1):
            yield i, j, slice(i * s, i * s + f), slice(j * s, j * s + f)


def convolution(image, filt, bias, s=1):
    """(C,H,W) x (O,C,f,f) + (O,1) -> (O,OH,OW), no padding."""
    O, _, f, _ = filt.shape
    out = np.zeros((O, (image.shape[1] - f) // s + 1, (image.shape[2] - f) // s + 1))
    for i, j, h, w in _places(image.shape, f, s):
        for o in range(O):
            out[o, i, j] = np.sum(image[:, h, w] * filt[o]) + bias[o, 0]
    return out


def convolution_backward(dconv, image, filt, s):
    """(dimage, dfilt, dbias (O,1))."""
    dimage, dfilt = np.zeros(image.shape), np.zeros(filt.shape)
    for i, j, h, w in _places(image.shape, filt.shape[2], s):
        for o in range(len(filt)):
            dimage[:, h, w] += dconv[o, i, j] * filt[o]
            dfilt[o] += dconv[o, i, j] * image[:, h, w]
    return dimage, dfilt, dconv.sum(axis=(1, 2))[:, None]


def maxpool(image, f=2, s=2):
    out = np.zeros((image.shape[0], (image.shape[1] - f) // s + 1, (image.shape[2] - f) // s + 1))
    for i, j, h, w in _places(image.shape, f, s):
        out[:, i, j] = image[:, h, w].max(axis=(1, 2))
    return out


def maxpool_backward(dpool, image, f, s):
    """To the first maximum that is not NaN, assigned: a later window that overlaps overwrites what an earlier one left."""
    dimage = np.zeros(image.shape)
    for c in range(len(image)):
        for i, j, h, w in _places(image.shape, f, s):
            a, b = np.unravel_index(np.nanargmax(image[c, h, w]), (f, f))
            dimage[c, h.start + a, w.start + b] = dpool[c, i, j]
    return dimage
