# cython: language_level=3
from fastcnn.backends.cpu._kernels cimport fc_isa
from fastcnn.backends.cpu._layout cimport Geometry, View, index
from fastcnn.backends.cpu._panels cimport Panels
from fastcnn.backends.cpu._winograd_tiles cimport Blocks, Image, Normalised


cdef struct DeepPlan:
    Blocks blocks
    int threads
    index group      # blocks that go through a stage together
    index length     # reduction rows whose weights are transformed at a time
    index line       # channels of an input plane's row, whole vectors
    index plane      # between input planes
    index width      # most columns of a panel
    index weight_plane
    index out_plane
    size_t planes_bytes
    size_t strip_bytes
    size_t weight_bytes
    size_t out_bytes
    size_t worker_bytes
    size_t bytes


cdef struct DeepGradPlan:
    Blocks blocks
    int threads
    index line
    index plane
    index grad_line
    index grad_plane
    index width
    index out_plane
    size_t planes_bytes
    size_t grads_bytes
    size_t strip_bytes
    size_t worker_bytes
    size_t bytes


cdef bint is_deep(Geometry* g, index most_tiles) noexcept nogil
cdef DeepPlan make_deep_plan(const fc_isa* kernels, Geometry* g, const Panels* panels, bint last) noexcept nogil
cdef void convolve_deep(const fc_isa* kernels, Geometry* g, const DeepPlan* p, const float* x, View sx, const Panels* panels, const float* w, bint flipped, const float* packed,
                        index packed_plane, const Normalised* before, const Image* y, char* scratch) noexcept nogil
cdef DeepGradPlan make_deep_grad_plan(const fc_isa* kernels, Geometry* g, const Panels* panels) noexcept nogil
cdef void grad_weight_deep(const fc_isa* kernels, Geometry* g, const DeepGradPlan* p, const Normalised* before, const float* x, View sx, const float* grad, View sg,
                           const Panels* panels, float* gw, char* scratch) noexcept nogil
