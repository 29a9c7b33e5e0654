"""The same four functions with im2col, still one image at a time."""

from .. import columns


def convolution(image, filt, bias, s=1):
    return columns.conv_forward(image[None], filt, bias, s)[0][0]


def convolutionBackward(dconv_prev, conv_in, filt, s):
    cols = columns.im2col(conv_in[None], *filt.shape[2:], s)
    dx, dfilt, dbias = columns.conv_backward(dconv_prev[None], cols, (1, *conv_in.shape), filt, s)
    return dx[0], dfilt, dbias[:, None]


def maxpool(image, f=2, s=2):
    return columns.pool_windows(image[None], f, s).max(axis=-1)


def maxpoolBackward(dpool, orig, f, s):
    taps = columns.first_maximum(columns.pool_windows(orig[None], f, s)) * dpool[..., None]
    return columns.pool_added(taps, (1, *orig.shape), f, s)[0]
