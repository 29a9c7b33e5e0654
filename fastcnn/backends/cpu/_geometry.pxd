# cython: language_level=3, cdivision=True
"""The numbers of a convolution, from the arguments that every driver gets."""
from fastcnn.backends.cpu._layout cimport Geometry, index


cdef inline Geometry geometry_of(index N, index C, index H, index W, index O, index KH, index KW, object stride, object padding, object dilation, index groups) except *:
    cdef Geometry g
    cdef index PB, PR
    g.N, g.C, g.H, g.W, g.O, g.KH, g.KW, g.G = N, C, H, W, O, KH, KW, groups
    (g.SH, g.SW), (g.DH, g.DW), ((g.PT, PB), (g.PL, PR)) = stride, dilation, padding
    g.OH = (H + g.PT + PB - (KH - 1) * g.DH - 1) // g.SH + 1
    g.OW = (W + g.PL + PR - (KW - 1) * g.DW - 1) // g.SW + 1
    g.Cg, g.Og = C // groups, O // groups
    return g


cdef inline void flip_geometry(Geometry* g) noexcept:
    """Of stride 1: the convolution of grad_output, padded by (K-1)*D - P, with the flipped kernel, channels exchanged, that is the input gradient (Dumoulin & Visin 2016, ch. 4)."""
    g.C, g.O, g.Cg, g.Og = g.O, g.C, g.Og, g.Cg
    g.H, g.W, g.OH, g.OW = g.OH, g.OW, g.H, g.W
    g.PT = (g.KH - 1) * g.DH - g.PT
    g.PL = (g.KW - 1) * g.DW - g.PL
