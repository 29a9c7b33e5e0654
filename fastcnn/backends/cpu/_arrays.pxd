# cython: language_level=3
"""Arrays at the border: memory format, strides, fresh results."""
cimport numpy as cnp

from fastcnn.backends.cpu._layout cimport View, index


cdef inline bint is_channels_last(cnp.ndarray a) noexcept:
    """Is the logical (N, C, H, W) array dense with the channels innermost (and not C-contiguous as well)?"""
    cdef cnp.npy_intp* shape = cnp.PyArray_DIMS(a)
    cdef cnp.npy_intp* stride = cnp.PyArray_STRIDES(a)
    cdef cnp.npy_intp expected = cnp.PyArray_ITEMSIZE(a)
    if cnp.PyArray_IS_C_CONTIGUOUS(a):
        return False
    if shape[1] != 1 and stride[1] != expected:
        return False
    expected *= shape[1]
    if shape[3] != 1 and stride[3] != expected:
        return False
    expected *= shape[3]
    if shape[2] != 1 and stride[2] != expected:
        return False
    expected *= shape[2]
    return shape[0] == 1 or stride[0] == expected


cdef inline View view_of(cnp.ndarray a) noexcept:
    """Strides in elements. Where a dimension has one element its stride means nothing; dense ones are filled in, so that the loader recognises dense rows."""
    cdef cnp.npy_intp* shape = cnp.PyArray_DIMS(a)
    cdef cnp.npy_intp* stride = cnp.PyArray_STRIDES(a)
    cdef index item = cnp.PyArray_ITEMSIZE(a)
    cdef View v
    v.n = stride[0] // item
    v.c = stride[1] // item
    v.h = stride[2] // item
    v.w = stride[3] // item
    if shape[1] == 1:
        v.c = 1
    if shape[3] == 1:
        v.w = shape[1] if v.c == 1 else 1
    if shape[2] == 1:
        v.h = v.w * shape[3]
    return v


cdef inline cnp.ndarray empty4(index N, index C, index H, index W, int typenum, bint channels_last):
    """A fresh (N, C, H, W) array in one of the two memory formats."""
    cdef cnp.npy_intp shape[4]
    shape[0] = N
    if channels_last:
        shape[1], shape[2], shape[3] = H, W, C
        return cnp.PyArray_EMPTY(4, shape, typenum, 0).transpose(0, 3, 1, 2)
    shape[1], shape[2], shape[3] = C, H, W
    return cnp.PyArray_EMPTY(4, shape, typenum, 0)


cdef inline cnp.ndarray dense(cnp.ndarray a):
    """The array itself if it is C-contiguous or channels-last, else a C-contiguous copy: for the small arrays (weights)."""
    if cnp.PyArray_IS_C_CONTIGUOUS(a) or (cnp.PyArray_NDIM(a) == 4 and is_channels_last(a)):
        return a
    return cnp.PyArray_GETCONTIGUOUS(a)
