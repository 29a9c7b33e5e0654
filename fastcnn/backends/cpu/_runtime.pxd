# cython: language_level=3
"""What every driver shares: the active kernel set, the number of threads, scratch memory."""
from fastcnn.backends.cpu._kernels cimport fc_isa


cdef extern from "threads.h" nogil:
    ctypedef void (*fc_parallel_function)(void (*task)(void* context, int index) noexcept nogil, void* context, int count) noexcept nogil
    void fc_use_pool(fc_parallel_function parallel)


cdef class Arena:
    """One block of scratch memory, 64-byte aligned, that outlives the call and only grows: first touch of fresh memory costs about 4 us per page."""
    cdef char* base
    cdef size_t size


cdef const fc_isa* active_isa() noexcept nogil
cdef int thread_count(double flops, Py_ssize_t items) noexcept nogil
cdef fc_parallel_function pool() noexcept  # every module with parallel loops begins with fc_use_pool(pool())
cdef Arena acquire(size_t nbytes)
cdef Arena reserve(size_t nbytes)
cdef void release(Arena arena)
