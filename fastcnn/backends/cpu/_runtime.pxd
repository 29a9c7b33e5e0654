# cython: language_level=3
"""What every driver shares: the active kernel set, the number of threads, scratch memory."""
from fastcnn.backends.cpu._kernels cimport fc_isa


cdef class Arena:
    """One block of scratch memory, 64-byte aligned, that outlives the call and only grows: first touch of fresh memory costs about 4 us per page."""
    cdef char* base
    cdef size_t size


cdef const fc_isa* active_isa() noexcept nogil
cdef int thread_count(double flops, Py_ssize_t items) noexcept nogil
cdef Arena acquire(size_t nbytes)
cdef Arena reserve(size_t nbytes)
cdef void release(Arena arena)
