/* x86-64-v4: 32 registers of 64 bytes. The tile's budget, in registers: 8 x 3 sums + 3 of the panel + 1 broadcast = 28 <= 32.
 * 24 independent sums (8 at nv = 1) cover FMA latency 4 x 2 per cycle = 8. */
#include <immintrin.h>

#define FC_ISA avx512
#define FC_VBYTES 64
#define FC_MR 8
#define FC_NV 3
#define FC_NREGS 32
#include "../kernels.inc"
