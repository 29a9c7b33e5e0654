# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The runtime under the drivers: which kernels run, on how many threads, in what scratch memory."""
cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from fastcnn.backends.cpu._kernels cimport fc_isa

cnp.import_array()

cdef extern from "fastcnn.h" nogil:
    const fc_isa* fc_active()
    int fc_select(const char* name)
    const char* fc_isa_name(int i)
    int fc_isa_supported(int i)
    const char* fc_compiler()

cdef extern from *:
    """
    #include <stdlib.h>
    #if defined(__linux__)
    #include <sys/mman.h>
    #endif
    #ifdef _OPENMP
    enum { fc_has_openmp = 1 };
    #else
    enum { fc_has_openmp = 0 };
    #endif
    #ifdef FC_OWN_POOL
    enum { fc_has_pool = 1 };
    static fc_parallel_function fc_pool(void) { return fc_parallel; }
    #else
    enum { fc_has_pool = 0 };
    static fc_parallel_function fc_pool(void) { return NULL; }
    static void fc_forget_threads(void) {}
    static void fc_borrow_threads(fc_team_function team, unsigned count) { (void)team; (void)count; }
    #endif
    __attribute__((visibility("default"), used)) const int fastcnn_threads = 1; /* by this name threadpoolctl knows the library */
    /* Large blocks start on a huge page and ask for huge pages: 512 times fewer page faults and TLB entries. */
    static void *fc_aligned_block(size_t nbytes) {
        const size_t huge = (size_t)2 << 20, align = nbytes >= huge ? huge : 64;
        void *block = NULL;
        if (posix_memalign(&block, align, (nbytes + align - 1) / align * align) != 0) return NULL;
    #if defined(__linux__) && defined(MADV_HUGEPAGE)
        if (nbytes >= huge) madvise(block, nbytes, MADV_HUGEPAGE);
    #endif
        return block;
    }
    """
    const bint fc_has_openmp
    const bint fc_has_pool
    fc_parallel_function fc_pool() nogil
    void fc_forget_threads() nogil
    ctypedef void* fc_team_function
    void fc_borrow_threads(fc_team_function team, unsigned count) nogil
    void* fc_aligned_block(size_t nbytes) nogil


# Below this many floating-point operations a second thread costs more than it saves: waking a parked worker takes 25-65 us, the time of ~5 MFLOP on one core
# at peak, but a worker that is still spinning joins in 1 us; 1 MFLOP is the compromise.
cdef double SERIAL_FLOPS = 1e6

cdef int _threads = 1
cdef bint _forked = False
cdef bint _lent = False


cdef fc_parallel_function pool() noexcept:
    """The process's pool of threads, NULL where the loops are an OpenMP runtime's."""
    return fc_pool()


fc_use_pool(pool())


cdef const fc_isa* active_isa() noexcept nogil:
    return fc_active()


cdef int thread_count(double flops, Py_ssize_t items) noexcept nogil:
    """Threads for a loop of `items` independent pieces."""
    if _threads == 1 or _forked or flops < SERIAL_FLOPS or items < 2:
        return 1
    return _threads if items > _threads else <int>items


cdef class Arena:
    def __cinit__(self):
        self.base = NULL
        self.size = 0

    def __dealloc__(self):
        free(self.base)


# Arenas not in use. A call takes one and puts it back, so concurrent Python threads never share one; list.pop and list.append are atomic.
cdef list _idle = []


cdef Arena acquire(size_t nbytes):
    cdef Arena arena
    try:
        arena = <Arena>_idle.pop()
    except IndexError:
        arena = Arena()
    if arena.size < nbytes:
        grow(arena, nbytes)
    return arena


cdef void grow(Arena arena, size_t nbytes) except *:
    free(arena.base)
    arena.size = 0
    arena.base = <char*>fc_aligned_block(nbytes)
    if arena.base == NULL:
        raise MemoryError(f"fastcnn could not allocate {nbytes} bytes of memory")
    arena.size = nbytes


cdef Arena reserve(size_t nbytes):
    """A block of one's own, for what must outlive the call."""
    cdef Arena arena = Arena()
    grow(arena, nbytes)
    return arena


cdef void release(Arena arena):
    _idle.append(arena)


def free_scratch() -> None:
    """Give back the scratch memory that no call is using; the next ones take what they need anew."""
    _idle.clear()


def isa() -> str:
    """Name of the kernel set in use."""
    return fc_active().name.decode()


def isas() -> dict:
    """Every kernel set of this build, best first, and whether this machine can run it."""
    cdef int i = 0
    found = {}
    while fc_isa_name(i) != NULL:
        found[fc_isa_name(i).decode()] = bool(fc_isa_supported(i))
        i += 1
    return found


def set_isa(str name) -> None:
    """Use another kernel set from now on. Raises ValueError if this build has none of that name or this machine cannot run it."""
    cdef bytes encoded = name.encode()
    cdef int status = fc_select(encoded)
    if status == -1:
        raise ValueError(f"set_isa: unknown instruction set {name!r}; this build has {', '.join(isas())}")
    if status == -2:
        raise ValueError(f"set_isa: this CPU (or its operating system) cannot run {name!r}; it can run {', '.join(n for n, ok in isas().items() if ok)}")


cdef enum:
    CHECKSUM_PIECE = 1 << 18  # bytes: pieces enough to share, and the same ones for any number of threads


def checksum(arrays) -> int:
    """A number that changes when an element of one of the arrays does. They must be C-contiguous; None stands for no array."""
    cdef cnp.ndarray a
    cdef uint64_t total = 0, prime = 0x100000001B3ULL
    for array in arrays:
        if array is None:
            total = total * 31 + 1
            continue
        a = array
        if not cnp.PyArray_IS_C_CONTIGUOUS(a):
            raise ValueError(f"checksum: arrays must be C-contiguous, got strides {array.strides} for shape {array.shape}")
        total = (total ^ checksum_of(<const char*>cnp.PyArray_DATA(a), cnp.PyArray_NBYTES(a))) * prime
    return total


cdef uint64_t checksum_of(const char* data, Py_ssize_t nbytes):
    cdef const fc_isa* kernels = fc_active()
    cdef Py_ssize_t pieces = (nbytes + CHECKSUM_PIECE - 1) // CHECKSUM_PIECE, i
    cdef int threads = thread_count(<double>nbytes, pieces)
    cdef uint64_t total = 0
    for i in prange(pieces, nogil=True, num_threads=threads, schedule="static"):
        total += kernels.checksum(data + i * CHECKSUM_PIECE, min(nbytes - i * CHECKSUM_PIECE, CHECKSUM_PIECE)) * <uint64_t>(2 * i + 1)
    return total


def vector_bytes() -> int:
    """Width of the active set's vectors."""
    return fc_active().f32.lanes * sizeof(float)


MOST_THREADS = 1024  # far more than any machine this is for; beyond some ten thousand OpenMP cannot start them and ends the process


def set_threads(count) -> None:
    global _threads
    _threads = min(count, MOST_THREADS) if fc_has_openmp else 1


def threads() -> int:
    return 1 if _forked else _threads


def after_fork_in_child() -> None:
    """Our own pool starts its threads again when they are needed; an OpenMP runtime's do not survive fork, and waiting for them would hang."""
    global _forked, _lent
    fc_forget_threads()
    _lent = False
    _forked = not fc_has_pool


def borrow_threads(size_t address, unsigned count) -> bool:
    """Run the parallel loops on `count` threads of an OpenMP runtime, whose GOMP_parallel lies at this address; 0: on our own again.

    False, and nothing changes, where the loops are not on our own pool (they are on an OpenMP runtime, or serial).
    """
    global _lent
    if not fc_has_pool:
        return False
    fc_borrow_threads(<fc_team_function>address, count)
    _lent = address != 0
    return True


def loops() -> str:
    """What runs the parallel loops."""
    return "borrowed threads" if _lent else "own threads" if fc_has_pool else "OpenMP" if fc_has_openmp else "serial (a build without OpenMP)"


def compiler() -> str:
    return fc_compiler().decode()


def fma_probe(str dtype, Py_ssize_t iterations, int threads) -> float:
    """Run register-only multiply-adds on `threads` threads and return the floating-point operations done: the machine's peak, when timed."""
    cdef const fc_isa* kernels = fc_active()
    cdef double total = 0
    cdef double lane64
    cdef float lane32
    cdef int i
    cdef bint single = dtype == "float32"
    if not single and dtype != "float64":
        raise ValueError(f"fma_probe: dtype must be 'float32' or 'float64', got {dtype!r}")
    for i in prange(threads, nogil=True, num_threads=threads, schedule="static"):
        if single:
            lane32 = 0
            total += kernels.f32.fma_probe(iterations, &lane32)
        else:
            lane64 = 0
            total += kernels.f64.fma_probe(iterations, &lane64)
    return total


def copy_probe(cnp.ndarray destination, cnp.ndarray source, int threads) -> int:
    """Copy `source` into `destination` (contiguous, same size) on `threads` threads; returns the bytes moved, read plus written."""
    if threads < 1:
        raise ValueError(f"copy_probe: threads must be at least 1, got {threads}")
    if destination.nbytes != source.nbytes or not (destination.flags.c_contiguous and source.flags.c_contiguous):
        raise ValueError("copy_probe: destination and source must be contiguous and of the same size")
    cdef char* d = <char*>cnp.PyArray_DATA(destination)
    cdef const char* s = <const char*>cnp.PyArray_DATA(source)
    cdef Py_ssize_t total = source.nbytes, piece = (total + threads - 1) // threads, i
    for i in prange(threads, nogil=True, num_threads=threads, schedule="static"):
        if i * piece < total:
            memcpy(d + i * piece, s + i * piece, piece if (i + 1) * piece <= total else total - i * piece)
    return 2 * total
