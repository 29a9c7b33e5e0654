/* One vector of FC_VBYTES bytes of `real`, in GCC/Clang vector extensions. Included by kernels.inc once per (ISA, element type).
 *
 * The vector width must equal the ISA's register width: a 64-byte vector compiled for AVX2 is split by the compiler and spills (measured: 117 -> 2-12 GFLOP/s).
 * Besides csrc/isa/ and dispatch.c this is the only file that may ask for an instruction set: partial loads and stores have no portable form that is fast.
 */
typedef real vec __attribute__((vector_size(FC_VBYTES)));
typedef real vec_u __attribute__((vector_size(FC_VBYTES), aligned(FC_REAL_BYTES), may_alias)); /* the same, at any element's address */
typedef inte ivec __attribute__((vector_size(FC_VBYTES)));
typedef inte ivec_u __attribute__((vector_size(FC_VBYTES), aligned(FC_REAL_BYTES), may_alias));

#define L ((int)(FC_VBYTES / FC_REAL_BYTES))

static inline __attribute__((always_inline)) vec FC_FN(load)(const real *p) { return *(const vec_u *)p; }
static inline __attribute__((always_inline)) void FC_FN(store)(real *p, vec v) { *(vec_u *)p = v; }
static inline __attribute__((always_inline)) vec FC_FN(splat)(real x) { return x - (vec){0}; }

/* Stay in a register: compilers like to repeat a load as the memory operand of each of its uses, and loads across cache lines are what a stencil is short of. */
#undef FC_KEEP
#if defined(__x86_64__)
#define FC_KEEP(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define FC_KEEP(v) __asm__("" : "+w"(v))
#else
#define FC_KEEP(v) (void)0
#endif
/* Elements before the first aligned vector of p. NumPy's large arrays begin 16 bytes behind a page: stores from there on would all touch two cache lines. */
static inline __attribute__((always_inline)) fc_index FC_FN(unaligned)(const real *p) { return (fc_index)((0 - (uintptr_t)p) % FC_VBYTES / sizeof(real)); }

/* First n elements (0 <= n <= L); the other lanes of a load are zero; nothing outside the n elements is touched. */
#if defined(__AVX512F__) && FC_VBYTES == 64 && FC_REAL_BYTES == 4
static inline vec FC_FN(load_n)(const real *p, int n) { return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
static inline void FC_FN(store_n)(real *p, vec v, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v); }
#elif defined(__AVX512F__) && FC_VBYTES == 64
static inline vec FC_FN(load_n)(const real *p, int n) { return (vec)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p); }
static inline void FC_FN(store_n)(real *p, vec v, int n) { _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v); }
#elif defined(__AVX2__) && FC_VBYTES == 32 && FC_REAL_BYTES == 4
static inline __m256i FC_FN(mask)(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
static inline vec FC_FN(load_n)(const real *p, int n) { return (vec)_mm256_maskload_ps(p, FC_FN(mask)(n)); }
static inline void FC_FN(store_n)(real *p, vec v, int n) { _mm256_maskstore_ps(p, FC_FN(mask)(n), (__m256)v); }
#elif defined(__AVX2__) && FC_VBYTES == 32
static inline __m256i FC_FN(mask)(int n) { return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3)); }
static inline vec FC_FN(load_n)(const real *p, int n) { return (vec)_mm256_maskload_pd(p, FC_FN(mask)(n)); }
static inline void FC_FN(store_n)(real *p, vec v, int n) { _mm256_maskstore_pd(p, FC_FN(mask)(n), (__m256d)v); }
#else
static inline vec FC_FN(load_n)(const real *p, int n) {
    real lane[FC_VBYTES / FC_REAL_BYTES] = {0};
    for (int i = 0; i < n; i++) lane[i] = p[i];
    return FC_FN(load)(lane);
}
static inline void FC_FN(store_n)(real *p, vec v, int n) {
    real lane[FC_VBYTES / FC_REAL_BYTES];
    FC_FN(store)(lane, v);
    for (int i = 0; i < n; i++) p[i] = lane[i];
}
#endif

/* n bytes (0 <= n <= L) as integers of an element's width, and such integers, which fit, as bytes. The compilers' own conversions go through scalar registers. */
typedef int8_t FC_FN(bytes) __attribute__((vector_size(FC_VBYTES / FC_REAL_BYTES), aligned(1), may_alias));
#if defined(__AVX512F__) && FC_VBYTES == 64
#if FC_REAL_BYTES == 4
#define FC_WIDENED(v) ((ivec)_mm512_cvtepi8_epi32(v))
static inline void FC_FN(store_bytes)(int8_t *p, ivec v, int n) { _mm512_mask_cvtepi32_storeu_epi8(p, (__mmask16)((1u << n) - 1), (__m512i)v); }
#else
#define FC_WIDENED(v) ((ivec)_mm512_cvtepi8_epi64(v))
static inline void FC_FN(store_bytes)(int8_t *p, ivec v, int n) { _mm512_mask_cvtepi64_storeu_epi8(p, (__mmask8)((1u << n) - 1), (__m512i)v); }
#endif
static inline ivec FC_FN(load_bytes)(const int8_t *p, int n) { return FC_WIDENED(_mm_maskz_loadu_epi8((__mmask16)((1u << n) - 1), p)); }
#undef FC_WIDENED
#else
static inline __attribute__((always_inline)) void FC_FN(store_bytes)(int8_t *p, ivec v, int n) {
    const FC_FN(bytes) b = __builtin_convertvector(v, FC_FN(bytes));
    if (n == L) *(FC_FN(bytes) *)p = b;
    else
        for (int i = 0; i < n; i++) p[i] = b[i];
}
static inline __attribute__((always_inline)) ivec FC_FN(load_bytes)(const int8_t *p, int n) {
    FC_FN(bytes) b = {0};
    if (n == L) b = *(const FC_FN(bytes) *)p;
    else
        for (int i = 0; i < n; i++) b[i] = p[i];
#if defined(__AVX2__) && FC_VBYTES == 32 && FC_REAL_BYTES == 4
    return (ivec)_mm256_cvtepi8_epi32(_mm_set_epi64x(0, (long long)b));
#elif defined(__AVX2__) && FC_VBYTES == 32
    return (ivec)_mm256_cvtepi8_epi64(_mm_set_epi32(0, 0, 0, (int)b));
#else
    return __builtin_convertvector(b, ivec);
#endif
}
#endif

/* Keeps a load from becoming one under a mask that depends on other data, which is slow. */
#if defined(__AVX512F__) && FC_VBYTES == 64
#define FC_LOADED(v) __asm__("" : "+v"(v))
#else
#define FC_LOADED(v) ((void)(v))
#endif

/* Lane-wise choice: mask lanes are all ones or all zeros, as comparisons of vectors give. */
static inline __attribute__((always_inline)) vec FC_FN(select)(ivec mask, vec yes, vec no) { return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask)); }
static inline __attribute__((always_inline)) ivec FC_FN(select_i)(ivec mask, ivec yes, ivec no) { return (yes & mask) | (no & ~mask); }

/* x between lowest and highest, NaN where it is; FC_SCALED: there is an instruction for x * 2^n, n a whole number, rounded once. */
#if defined(__AVX512F__) && FC_VBYTES == 64 && FC_REAL_BYTES == 4
#define FC_SCALED
static inline vec FC_FN(scaled)(vec x, vec n) { return (vec)_mm512_scalef_ps((__m512)x, (__m512)n); }
static inline vec FC_FN(clamped)(vec x, real lowest, real highest) {
    return (vec)_mm512_min_ps(_mm512_set1_ps(highest), _mm512_max_ps(_mm512_set1_ps(lowest), (__m512)x)); /* the second operand where one is NaN */
}
#elif defined(__AVX512F__) && FC_VBYTES == 64
static inline vec FC_FN(scaled)(vec x, vec n) { return (vec)_mm512_scalef_pd((__m512d)x, (__m512d)n); }
static inline vec FC_FN(clamped)(vec x, real lowest, real highest) {
    return (vec)_mm512_min_pd(_mm512_set1_pd(highest), _mm512_max_pd(_mm512_set1_pd(lowest), (__m512d)x));
}
#elif defined(__AVX2__) && FC_VBYTES == 32 && FC_REAL_BYTES == 4
static inline vec FC_FN(clamped)(vec x, real lowest, real highest) {
    return (vec)_mm256_min_ps(_mm256_set1_ps(highest), _mm256_max_ps(_mm256_set1_ps(lowest), (__m256)x));
}
#elif defined(__AVX2__) && FC_VBYTES == 32
static inline vec FC_FN(clamped)(vec x, real lowest, real highest) {
    return (vec)_mm256_min_pd(_mm256_set1_pd(highest), _mm256_max_pd(_mm256_set1_pd(lowest), (__m256d)x));
}
#else
static inline vec FC_FN(clamped)(vec x, real lowest, real highest) {
    const vec y = FC_FN(select)((ivec)(x > highest), FC_FN(splat)(highest), x);
    return FC_FN(select)((ivec)(y < lowest), FC_FN(splat)(lowest), y);
}
#endif

/* What rounding took from the product p = a * a. */
#if defined(__AVX512F__) && FC_VBYTES == 64 && FC_REAL_BYTES == 4
static inline vec FC_FN(square_rest)(vec a, vec p) { return (vec)_mm512_fmsub_ps((__m512)a, (__m512)a, (__m512)p); }
#elif defined(__FMA__) && FC_VBYTES == 32 && FC_REAL_BYTES == 4
static inline vec FC_FN(square_rest)(vec a, vec p) { return (vec)_mm256_fmsub_ps((__m256)a, (__m256)a, (__m256)p); }
#else
static inline vec FC_FN(square_rest)(vec a, vec p) {
    const vec high = (vec)((ivec)a & (inte)(FC_REAL_BYTES == 4 ? 0xfffff000 : 0xfffffffff8000000)); /* half of the digits: its square is exact */
    return (high * high - p) + (a - high) * (a + high);
}
#endif

/* Correctly rounded, as IEEE demands. */
#if defined(__AVX512F__) && FC_VBYTES == 64 && FC_REAL_BYTES == 4
static inline vec FC_FN(sqrt)(vec v) { return (vec)_mm512_sqrt_ps((__m512)v); }
#elif defined(__AVX512F__) && FC_VBYTES == 64
static inline vec FC_FN(sqrt)(vec v) { return (vec)_mm512_sqrt_pd((__m512d)v); }
#elif defined(__AVX2__) && FC_VBYTES == 32 && FC_REAL_BYTES == 4
static inline vec FC_FN(sqrt)(vec v) { return (vec)_mm256_sqrt_ps((__m256)v); }
#elif defined(__AVX2__) && FC_VBYTES == 32
static inline vec FC_FN(sqrt)(vec v) { return (vec)_mm256_sqrt_pd((__m256d)v); }
#else
static inline vec FC_FN(sqrt)(vec v) {
    real lane[FC_VBYTES / FC_REAL_BYTES];
    FC_FN(store)(lane, v);
    for (int i = 0; i < L; i++) lane[i] = FC_REAL_BYTES == 4 ? (real)sqrtf((float)lane[i]) : (real)sqrt((double)lane[i]);
    return FC_FN(load)(lane);
}
#endif

/* The lanes' sum, in double, by halves. */
static inline double FC_FN(lane_sum)(vec v) {
    double lane[FC_VBYTES / FC_REAL_BYTES];
    for (int i = 0; i < L; i++) lane[i] = v[i];
    FC_UNROLL for (int half = L / 2; half > 0; half /= 2)
        FC_UNROLL for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

/* ZIP: interleave the lower (upper) halves of a and b, a0 b0 a1 b1 ...; EVEN and ODD are its inverse.
 * UNPACK is ZIP inside each lane of 16 bytes, which takes no index register; LANES_EVEN and LANES_ODD are EVEN and ODD of whole such lanes (vectors of one lane have no use for them). */
#if defined(__clang__)
#define FC_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FC_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif
#if FC_VBYTES / FC_REAL_BYTES == 16
#define FC_ZIP_LO(a, b) FC_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define FC_ZIP_HI(a, b) FC_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define FC_EVEN(a, b) FC_SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define FC_ODD(a, b) FC_SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
#define FC_IOTA ((ivec){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
#elif FC_VBYTES / FC_REAL_BYTES == 8
#define FC_ZIP_LO(a, b) FC_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define FC_ZIP_HI(a, b) FC_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define FC_EVEN(a, b) FC_SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14)
#define FC_ODD(a, b) FC_SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15)
#define FC_IOTA ((ivec){0, 1, 2, 3, 4, 5, 6, 7})
#elif FC_VBYTES / FC_REAL_BYTES == 4
#define FC_ZIP_LO(a, b) FC_SHUFFLE(a, b, 0, 4, 1, 5)
#define FC_ZIP_HI(a, b) FC_SHUFFLE(a, b, 2, 6, 3, 7)
#define FC_EVEN(a, b) FC_SHUFFLE(a, b, 0, 2, 4, 6)
#define FC_ODD(a, b) FC_SHUFFLE(a, b, 1, 3, 5, 7)
#define FC_IOTA ((ivec){0, 1, 2, 3})
#else
#define FC_ZIP_LO(a, b) FC_SHUFFLE(a, b, 0, 2)
#define FC_ZIP_HI(a, b) FC_SHUFFLE(a, b, 1, 3)
#define FC_EVEN(a, b) FC_SHUFFLE(a, b, 0, 2)
#define FC_ODD(a, b) FC_SHUFFLE(a, b, 1, 3)
#define FC_IOTA ((ivec){0, 1})
#endif
#if FC_VBYTES == 64 && FC_REAL_BYTES == 4
#define FC_UNPACK_LO(a, b) FC_SHUFFLE(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define FC_UNPACK_HI(a, b) FC_SHUFFLE(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define FC_LANES_EVEN(a, b) FC_SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define FC_LANES_ODD(a, b) FC_SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
#elif FC_VBYTES == 64
#define FC_UNPACK_LO(a, b) FC_SHUFFLE(a, b, 0, 8, 2, 10, 4, 12, 6, 14)
#define FC_UNPACK_HI(a, b) FC_SHUFFLE(a, b, 1, 9, 3, 11, 5, 13, 7, 15)
#define FC_LANES_EVEN(a, b) FC_SHUFFLE(a, b, 0, 1, 4, 5, 8, 9, 12, 13)
#define FC_LANES_ODD(a, b) FC_SHUFFLE(a, b, 2, 3, 6, 7, 10, 11, 14, 15)
#elif FC_VBYTES == 32 && FC_REAL_BYTES == 4
#define FC_UNPACK_LO(a, b) FC_SHUFFLE(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define FC_UNPACK_HI(a, b) FC_SHUFFLE(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define FC_LANES_EVEN(a, b) FC_SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define FC_LANES_ODD(a, b) FC_SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
#elif FC_VBYTES == 32
#define FC_UNPACK_LO(a, b) FC_SHUFFLE(a, b, 0, 4, 2, 6)
#define FC_UNPACK_HI(a, b) FC_SHUFFLE(a, b, 1, 5, 3, 7)
#define FC_LANES_EVEN(a, b) FC_SHUFFLE(a, b, 0, 1, 4, 5)
#define FC_LANES_ODD(a, b) FC_SHUFFLE(a, b, 2, 3, 6, 7)
#else
#define FC_UNPACK_LO FC_ZIP_LO
#define FC_UNPACK_HI FC_ZIP_HI
#endif

/* The sums of the lanes of a and of b, in half the steps of two: each step zips the halves together. */
static inline __attribute__((always_inline)) void FC_FN(add_both)(vec a, vec b, double *sum_a, double *sum_b) {
    vec v = FC_ZIP_LO(a, b) + FC_ZIP_HI(a, b);
    FC_UNROLL for (int width = 2; width < L; width *= 2) v = FC_ZIP_LO(v, v) + FC_ZIP_HI(v, v);
    *sum_a += v[0];
    *sum_b += v[L / 2];
}
