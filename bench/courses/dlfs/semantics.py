"""What common/util.py and common/layers.py compute, in plain loops, one statement per formula, written from the description of the course's interface
(signatures, layouts, quirks): the oracle of the tests of fastcnn.compat.dlfs, and the naive code of the benchmark. All float64."""

import numpy as np


def output_size(size, kernel, stride, pad):
    return (size + 2 * pad - kernel) // stride + 1


def windows(shape, filter_h, filter_w, stride, pad):
    """(n, oh, ow, row slice, column slice) in the order of im2col's rows; the slices are of the padded image."""
    N, _, H, W = shape
    for n in range(N):
        for oh in range(output_size(H, filter_h, stride, pad)):
            for ow in range(output_size(W, filter_w, stride, pad)):
                yield n, oh, ow, slice(oh * stride, oh * stride + filter_h), slice(ow * stride, ow * stride + filter_w)


def padded(x, pad):
    N, C, H, W = x.shape
    out = np.zeros((N, C, H + 2 * pad, W + 2 * pad))
    out[:, :, pad : pad + H, pad : pad + W] = x
    return out


def im2col(x, filter_h, filter_w, stride=1, pad=0):
    """One window a row, row order n, oh, ow; columns c, kh, kw; always float64."""
    image, C = padded(x, pad), x.shape[1]
    rows = [image[n, :, h, w].reshape(-1) for n, _, _, h, w in windows(x.shape, filter_h, filter_w, stride, pad)]
    return np.array(rows, dtype=np.float64).reshape(-1, C * filter_h * filter_w)


def col2im(col, shape, filter_h, filter_w, stride=1, pad=0):
    """Every row added back to where im2col took it."""
    N, C, H, W = shape
    image = np.zeros((N, C, H + 2 * pad, W + 2 * pad))
    for row, (n, _, _, h, w) in zip(col, windows(shape, filter_h, filter_w, stride, pad), strict=True):
        image[n, :, h, w] += row.reshape(C, filter_h, filter_w)
    return image[:, :, pad : pad + H, pad : pad + W]


def convolution(x, W, b, stride, pad):
    """NCHW x OIHW + (O,): cross-correlation."""
    O, _, KH, KW = W.shape
    image = padded(x, pad)
    out = np.zeros((len(x), O, output_size(x.shape[2], KH, stride, pad), output_size(x.shape[3], KW, stride, pad)))
    for n, oh, ow, h, w in windows(x.shape, KH, KW, stride, pad):
        for o in range(O):
            out[n, o, oh, ow] = np.sum(image[n, :, h, w] * W[o]) + b[o]
    return out


def convolution_backward(dout, x, W, stride, pad):
    """(dx, dW, db)."""
    O, _, KH, KW = W.shape
    image = padded(x, pad)
    dimage, dW = np.zeros_like(image), np.zeros(W.shape)
    for n, oh, ow, h, w in windows(x.shape, KH, KW, stride, pad):
        for o in range(O):
            dW[o] += dout[n, o, oh, ow] * image[n, :, h, w]
            dimage[n, :, h, w] += dout[n, o, oh, ow] * W[o]
    H, width = x.shape[2:]
    return dimage[:, :, pad : pad + H, pad : pad + width], dW, dout.sum(axis=(0, 2, 3))


def pooling(x, pool_h, pool_w, stride, pad):
    """Maximum per window; the border is made of zeros, which can win."""
    image = padded(x, pad)
    out = np.zeros((*x.shape[:2], output_size(x.shape[2], pool_h, stride, pad), output_size(x.shape[3], pool_w, stride, pad)))
    for n, oh, ow, h, w in windows(x.shape, pool_h, pool_w, stride, pad):
        for c in range(x.shape[1]):
            out[n, c, oh, ow] = image[n, c, h, w].max()
    return out


def pooling_backward(dout, x, pool_h, pool_w, stride, pad):
    """The first maximum in row-major order takes it all; overlapping windows add up; what goes to the border is lost."""
    image = padded(x, pad)
    dimage = np.zeros_like(image)
    for n, oh, ow, h, w in windows(x.shape, pool_h, pool_w, stride, pad):
        for c in range(x.shape[1]):
            i, j = divmod(int(np.argmax(image[n, c, h, w])), pool_w)
            dimage[n, c, h.start + i, w.start + j] += dout[n, c, oh, ow]
    H, W = x.shape[2:]
    return dimage[:, :, pad : pad + H, pad : pad + W]


def affine(x, W, b):
    """(N, *) x (I, O) + (O,)."""
    return x.reshape(len(x), -1) @ W + b


def affine_backward(dout, x, W):
    """(dx in x's shape, dW, db)."""
    return (dout @ W.T).reshape(x.shape), x.reshape(len(x), -1).T @ dout, dout.sum(axis=0)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def softmax(x):
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def softmax_with_loss(x, t):
    """(mean of -log(y + 1e-7) at the right class, dx). t holds labels, or one row per image; backward then subtracts the row itself."""
    y = softmax(x)
    rows = t.size == y.size
    label = t.argmax(axis=1) if rows else t
    loss = -np.mean([np.log(y[i, k] + 1e-7) for i, k in enumerate(label)])
    return loss, (y - (t if rows else np.eye(y.shape[1])[t])) / len(y)


def batch_normalization(x, gamma, beta, momentum, mean, var):
    """Per activation, over the batch alone: (out, new running mean, new running variance), biased, eps 1e-6, momentum keeps the old."""
    flat = x.reshape(len(x), -1)
    mu, sigma2 = flat.mean(axis=0), flat.var(axis=0)
    out = gamma * (flat - mu) / np.sqrt(sigma2 + 1e-6) + beta
    return out.reshape(x.shape), momentum * mean + (1 - momentum) * mu, momentum * var + (1 - momentum) * sigma2


def batch_normalization_eval(x, gamma, beta, mean, var):
    flat = x.reshape(len(x), -1)
    return (gamma * (flat - mean) / np.sqrt(var + 1e-6) + beta).reshape(x.shape)


def batch_normalization_backward(dout, x, gamma):
    """(dx, dgamma, dbeta) of the training formula, by the chain rule over mean and variance."""
    flat, grad = x.reshape(len(x), -1), dout.reshape(len(x), -1)
    N, centred = len(flat), flat - flat.mean(axis=0)
    var = flat.var(axis=0) + 1e-6
    dxhat = grad * gamma
    dvar = np.sum(dxhat * centred, axis=0) * -0.5 * var**-1.5
    dmean = -np.sum(dxhat, axis=0) / np.sqrt(var)
    dx = dxhat / np.sqrt(var) + dvar * 2 * centred / N + dmean / N
    return dx.reshape(x.shape), np.sum(grad * centred / np.sqrt(var), axis=0), grad.sum(axis=0)
