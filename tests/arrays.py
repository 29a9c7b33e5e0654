"""The same numbers in several memory formats, for the tests that compare them."""

import numpy as np

FORMATS = ("contiguous", "channels_last", "view")


def in_format(array, fmt):
    """The same values: C-contiguous, channels-last, or a view with gaps and a reversed axis."""
    if fmt == "contiguous":
        return array
    if fmt == "channels_last":
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    wide = np.full([2 * n for n in array.shape], 77, array.dtype)
    wide[::2, ::2, ::-2, ::2] = array
    return wide[::2, ::2, ::-2, ::2]


def in_memory_format(result, argument):
    """Results of channels-last arguments are channels-last, all others C-contiguous (also where the argument is both, having one channel or one pixel)."""
    channels_last = argument.transpose(0, 2, 3, 1).flags.c_contiguous and not argument.flags.c_contiguous
    return (result.transpose(0, 2, 3, 1) if channels_last else result).flags.c_contiguous
