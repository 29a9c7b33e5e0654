# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Panels: a matrix (k rows, n columns) cut into strips of nv * L columns, each stored row after row, so that a tile reads it as one stream.

`count` panels share nvec = ceil(n / L) vectors as evenly as they can (7 vectors at most 3 wide are 3 + 2 + 2, not 3 + 3 + 1: no tile runs with few sums).
"""
from libc.string cimport memcpy, memset

from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport ceil_div, imin, index, real


cdef struct Panels:
    index k      # rows
    index n      # columns that mean something
    index nvec   # vectors across
    index count  # panels
    int lanes


cdef inline Panels make_panels(const fc_isa* kernels, index k, index n, real* tag) noexcept nogil:
    """`tag` only tells the element type."""
    cdef Panels p
    cdef int widest
    if real is float:
        p.lanes = kernels.f32.lanes
        widest = kernels.f32.nv
    else:
        p.lanes = kernels.f64.lanes
        widest = kernels.f64.nv
    p.k = k
    p.n = n
    p.nvec = ceil_div(n, p.lanes)
    p.count = ceil_div(p.nvec, widest)
    return p


cdef inline index first_vector(const Panels* p, index i) noexcept nogil:
    """Vector at which panel i begins; first_vector(count) is nvec. The panel's data begins at first_vector * k * lanes."""
    return i * (p.nvec // p.count) + imin(i, p.nvec % p.count)


cdef inline index panel_elements(const Panels* p) noexcept nogil:
    return p.k * p.nvec * p.lanes


cdef inline void filter_to_last(const fc_isa* kernels, const real* w, index Cg, index taps, real* out) noexcept nogil:
    """One filter (Cg, taps) -> (taps, Cg): the channels last."""
    if real is float:
        kernels.f32.transpose(w, taps, out, Cg, Cg, taps, Cg)
    else:
        kernels.f64.transpose(w, taps, out, Cg, Cg, taps, Cg)


cdef inline void pack_panel(const fc_isa* kernels, const Panels* p, index i, const real* matrix, real* out) noexcept nogil:
    """Panel i of the transpose of matrix (n, k): the weights of a forward convolution or a linear layer."""
    cdef index v0 = first_vector(p, i), wide = (first_vector(p, i + 1) - v0) * p.lanes, columns = imin(wide, p.n - v0 * p.lanes)
    if real is float:
        kernels.f32.transpose(matrix + v0 * p.lanes * p.k, p.k, out + v0 * p.lanes * p.k, wide, columns, p.k, wide)
    else:
        kernels.f64.transpose(matrix + v0 * p.lanes * p.k, p.k, out + v0 * p.lanes * p.k, wide, columns, p.k, wide)


cdef inline void pack_row(const Panels* p, index row, const real* values, real* out) noexcept nogil:
    """Row `row` of the panels from n consecutive values."""
    cdef index i, v0, wide, columns
    cdef real* q
    for i in range(p.count):
        v0 = first_vector(p, i)
        wide = (first_vector(p, i + 1) - v0) * p.lanes
        columns = imin(wide, p.n - v0 * p.lanes)
        q = out + v0 * p.lanes * p.k + row * wide
        memcpy(q, values + v0 * p.lanes, columns * sizeof(real))
        memset(q + columns, 0, (wide - columns) * sizeof(real))
