# cython: language_level=3
"""What _pixels shares: weights turned for the input gradient."""
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, index, real


cdef void flip(const fc_isa* kernels, Geometry* g, const real* w, real* out, int threads) noexcept nogil
