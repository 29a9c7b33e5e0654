/* x86-64-v3: 16 registers of 32 bytes. The tile's budget, in registers: 6 x 2 sums + 2 of the panel + 1 broadcast = 15 <= 16.
 * 12 independent sums cover FMA latency 4 x 2 per cycle = 8; at nv = 1 the 6 sums reach three quarters of it. */
#include <immintrin.h>

#define FC_ISA avx2
#define FC_VBYTES 32
#define FC_MR 6
#define FC_NV 2
#define FC_NREGS 16
#include "../kernels.inc"
