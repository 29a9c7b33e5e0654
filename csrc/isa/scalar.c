/* The baseline every CPU of the architecture runs: x86-64-v2 has 16 registers of 16 bytes and no FMA; elsewhere the compiler splits the 16-byte vector into
 * what there is. Budget as on AVX2: 6 x 2 + 2 + 1 = 15 <= 16. */
#define FC_ISA scalar
#define FC_VBYTES 16
#define FC_MR 6
#define FC_NV 2
#define FC_NREGS 16
#include "../kernels.inc"
