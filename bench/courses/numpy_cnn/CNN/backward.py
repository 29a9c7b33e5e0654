"""Their gradients."""

import numpy as np


def convolutionBackward(dconv_prev, conv_in, filt, s):
    O, _, f, _ = filt.shape
    dout, dfilt, dbias = np.zeros(conv_in.shape), np.zeros(filt.shape), np.zeros((O, 1))
    for o in range(O):
        for i in range(dconv_prev.shape[1]):
            for j in range(dconv_prev.shape[2]):
                window = np.s_[:, i * s : i * s + f, j * s : j * s + f]
                dfilt[o] += dconv_prev[o, i, j] * conv_in[window]
                dout[window] += dconv_prev[o, i, j] * filt[o]
        dbias[o] = np.sum(dconv_prev[o])
    return dout, dfilt, dbias


def maxpoolBackward(dpool, orig, f, s):
    dout = np.zeros(orig.shape)
    for c, i, j in np.ndindex(*dpool.shape):
        a, b = np.unravel_index(np.nanargmax(orig[c, i * s : i * s + f, j * s : j * s + f]), (f, f))
        dout[c, i * s + a, j * s + b] = dpool[c, i, j]
    return dout
