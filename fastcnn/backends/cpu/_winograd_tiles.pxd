# cython: language_level=3
"""What the two Winograd drivers share: the cut into blocks of tiles, loaders, transformed weights, the way out. `_winograd_tiles.pyx` explains."""
cimport numpy as cnp

from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, index
from fastcnn.backends.cpu._norm cimport Following
from fastcnn.backends.cpu._panels cimport Panels

cdef enum:
    FREQUENCIES = 36
    TILE = 4
    PLANE_PAD = 16    # floats: one cache line
    MOST_ROWS = 8     # of a register tile
    WEIGHT_ROWS = 16  # channels whose nine taps are turned at a time: 9 KB
    MOST_LANES = 16


cdef struct Blocks:
    # the cut of (N, TH, TW) tiles into blocks of images x rows x cols
    index TH
    index TW
    index images
    index rows
    index cols
    index batches
    index row_blocks
    index col_blocks
    index count
    index tiles      # most tiles of a block
    index strip      # elements of the loaded pixels of one image, C channels


cdef struct Normalised:
    # what is applied to the input; mean NULL: nothing
    int op
    float slope
    const float* mean
    const float* scale
    const float* shift


cdef struct Image:
    # where the output goes, in which memory format
    float* data
    const float* bias
    bint last


cdef Normalised normalised_by(Following before, cnp.ndarray input)
cdef Blocks cut(Geometry* g, index most, index least_blocks) noexcept nogil
cdef void place(const Blocks* b, Geometry* g, index block, index* n0, index* images, index* r0, index* rows, index* c0, index* cols) noexcept nogil
cdef void transform_input(const fc_isa* kernels, Geometry* g, const Normalised* before, const float* x, View sx, index n, index r0, index rows, index c0, index cols, float* strip,
                          float* planes, index line, index plane) noexcept nogil
cdef void transform_weights(const fc_isa* kernels, const Panels* panels, const float* w, bint flipped, float* weights, index plane, int threads) noexcept nogil
cdef void transform_weight_block(const fc_isa* kernels, const Panels* panels, const float* w, bint flipped, index panel, index row, index last, float* weights, index plane) noexcept nogil
cdef void multiply(const fc_isa* kernels, const float* rows, index line, index tiles, index length, const float* panel, index wide, bint accumulate, float* out, index out_line) noexcept nogil
cdef void store_block(const fc_isa* kernels, Geometry* g, const Blocks* b, index block, const float* products, index plane, index line, index first, index channels, const Image* y,
                      float* scratch) noexcept nogil
cdef void weight_gradient(const fc_isa* kernels, const float* transformed, index plane, index line, index channels, index filters, index C, float* gw) noexcept nogil
