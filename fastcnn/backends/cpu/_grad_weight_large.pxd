# cython: language_level=3
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, index, real
from fastcnn.backends.cpu._panels cimport Panels


cdef struct LargePlan:
    int threads
    int mr
    bint mirrored      # input and grad_output have changed places
    bint direct        # tiles read the user's input
    bint direct_grad   # tiles read the user's grad_output
    index images       # that are laid out at a time
    index depth        # rows and columns of an image's copy
    index width
    index row_step     # from one output row or column to the next, in the copy (or the input)
    index column_step
    index channels     # of a block of the gradient
    index blocks
    index block        # elements of one
    index image        # elements of one image's copies
    index grad_image
    size_t x_bytes
    size_t grad_bytes
    size_t worker_bytes
    size_t bytes


cdef LargePlan make_large_plan(const fc_isa* kernels, Geometry* g, View sx, View sg, const Panels* panels, bint mirrored, real* tag) noexcept nogil
cdef bint is_large(const LargePlan* p, Geometry* g, const Panels* panels, real* tag) noexcept nogil
cdef void large_gradient(const fc_isa* kernels, Geometry* g, const LargePlan* p, const real* x, View sx, const real* grad, View sg, const Panels* panels, real* gw,
                         char* scratch) noexcept nogil
cdef void load_grad(const fc_isa* kernels, const real* grad, View sg, index rows, index OW, index columns, index wide, real* dst) noexcept nogil
