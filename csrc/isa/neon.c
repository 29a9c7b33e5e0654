/* aarch64: 32 registers of 16 bytes. The tile's budget, in registers: 8 x 3 sums + 3 of the panel + 1 broadcast = 28 <= 32. */
#define FC_ISA neon
#define FC_VBYTES 16
#define FC_MR 8
#define FC_NV 3
#define FC_NREGS 32
#include "../kernels.inc"
