"""The error that a float32 convolution may have: the numeric contract of csrc/README.md, as assertions.

u = 2^-24 is the unit roundoff of float32, A = conv(|x|, |w|) the sum without signs.
"""

import numpy as np

from fastcnn.backends import reference

U = 2.0**-24
# per element: so many u times A (of Winograd: its tile's largest A); relative L2 norm, which means nothing of a few numbers that may cancel
GATES = {"direct": (8, 1e-6), "winograd": (200, 8e-6)}


def tile_maximum(a):
    """The largest value of each 4x4 tile, at all of its pixels: one large product spoils the whole tile, not only its own pixel."""
    N, C, H, W = a.shape
    padded = np.zeros((N, C, -(-H // 4) * 4, -(-W // 4) * 4))
    padded[:, :, :H, :W] = a
    tiles = padded.reshape(N, C, padded.shape[2] // 4, 4, padded.shape[3] // 4, 4).max(axis=(3, 5), keepdims=True)
    return np.broadcast_to(tiles, (N, C, tiles.shape[2], 4, tiles.shape[4], 4)).reshape(padded.shape)[:, :, :H, :W]


def expected(x, w, b, g, options):
    """The three directions in float64: op -> (result, A)."""
    double = [a.astype(np.float64) for a in (x, w, b, g)]

    def directions(x, w, b, g):
        return {
            "conv2d": reference.conv2d(x, w, b, *options),
            "conv2d_grad_input": reference.conv2d_grad_input(g, w, x.shape, *options),
            "conv2d_grad_weight": reference.conv2d_grad_weight(g, x, w.shape, *options),
        }

    bounds = directions(*(np.abs(a) for a in double))
    return {op: (result, bounds[op]) for op, result in directions(*double).items()}


def error(op, algorithm, actual, result, bound):
    """(largest error per element in u A, relative L2 error)."""
    assert actual.dtype == np.float32 and actual.shape == result.shape
    if algorithm == "winograd":  # the nine taps of a weight gradient are one tile
        bound = bound.max(axis=(2, 3), keepdims=True) if op == "conv2d_grad_weight" else tile_maximum(bound)
    difference = np.abs(actual - result)
    if not difference.any():
        return 0.0, 0.0
    bound = np.broadcast_to(bound, difference.shape)
    assert not difference[bound == 0].any(), f"{op}: not zero where every product is zero"
    return float((difference[bound > 0] / (U * bound[bound > 0])).max()), float(np.linalg.norm(difference) / np.linalg.norm(result))


def gate(op, algorithm, actual, result, bound, terms=0, one_sign=False):
    """terms: products per sum. Of one sign, partial sums grow with every term, and with them what each of them is rounded by."""
    most, norm = GATES[algorithm]
    if one_sign:
        most += terms**0.5
    if algorithm == "direct":  # one chain: beyond 2,500 products its error outgrows the result, the square root of their number against a fixed norm
        norm = max(norm, 2e-8 * terms**0.5)
    largest, relative = error(op, algorithm, actual, result, bound)
    assert largest <= most, f"{op} {algorithm}: an error of {largest:.1f} u A, at most {most} are allowed"
    assert relative <= norm or actual.size < 16, f"{op} {algorithm}: a relative L2 error of {relative:.1e}, at most {norm} are allowed"
