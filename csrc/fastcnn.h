/* The table of kernels: the only header the Cython side sees.
 *
 * A kernel is a leaf: it gets pointers and sizes and computes. It never allocates, starts threads, reads files, or reports errors; whoever
 * calls it keeps the contract written above its definition in kernels/<family>.inc. Strides are counted in elements, not bytes.
 * Every kernel exists for float and for double, and once per instruction set; fc_active() is the set that fc_select() chose.
 */
#ifndef FASTCNN_H
#define FASTCNN_H

#include <stddef.h>
#include <stdint.h>

typedef ptrdiff_t fc_index;

/* Element-wise operations, forward and backward (kernels/eltwise.inc). `a` and `b` are the operation's parameters, see there. */
enum fc_eltwise_op {
    FC_RELU, FC_LEAKY_RELU, FC_ELU, FC_SELU, FC_GELU_ERF, FC_GELU_TANH, FC_SILU, FC_SOFTPLUS, FC_SIGMOID, FC_TANH
};

#define FC_DECLARE_KERNELS(T, NAME)                                                                                                        \
    typedef struct {                                                                                                                       \
        int lanes; /* elements in one vector */                                                                                            \
        int mr;    /* rows of the register tile */                                                                                         \
        int nv;    /* most vectors across the register tile */                                                                             \
        void (*tile)(T *const *rows, const fc_index *segment, fc_index segments, fc_index length, const T *panel, const T *bias,     \
                     int accumulate, T *const *out, int m, int nv, int n);                                                                 \
        void (*tile_add)(const T *rows, fc_index row_stride, fc_index length, const T *panel, T *out, fc_index out_stride, int m, int nv,  \
                         int n);                                                                                                           \
        void (*tile_outer)(T *const *rows, fc_index x_pixel, fc_index x_row, fc_index x_image, const T *grad, fc_index g_pixel,      \
                           fc_index g_row, fc_index g_image, fc_index pixels, fc_index nrows, fc_index images, int accumulate, T *out,                     \
                           fc_index out_stride, int m, int nv);                                                                            \
        void (*dots)(const T *x, const T *w, fc_index w_row, fc_index length, T *out, int rows);                                           \
        void (*transpose)(const T *src, fc_index src_stride, T *dst, fc_index dst_stride, fc_index rows, fc_index cols,                    \
                          fc_index rows_out);                                                                                              \
        void (*depthwise)(const T *x, fc_index x_pixel, fc_index tap_row, fc_index tap_col, fc_index kh, fc_index kw, const T *w,          \
                          fc_index w_tap, const T *bias, T *out, fc_index out_pixel, fc_index pixels, fc_index channels);                  \
        void (*depthwise_outer)(const T *x, fc_index x_pixel, fc_index tap_row, fc_index tap_col, fc_index kh, fc_index kw, const T *grad, \
                                fc_index g_pixel, T *out, fc_index w_tap, fc_index pixels, fc_index channels);                             \
        void (*planes)(const T *w, fc_index w_channel, const T *bias, const T *x, const fc_index *offset, fc_index taps, fc_index x_vector,  \
                       int accumulate, T *out, fc_index out_channel, fc_index out_vector, int full, int last, int m, int nv);               \
        void (*gather_runs)(const T *x, fc_index x_channel, fc_index step, const fc_index *runs, fc_index count, T *dst, fc_index dst_channel, \
                            fc_index channels);                                                                                              \
        void (*expect_runs)(const T *x, fc_index x_channel, fc_index step, const fc_index *runs, fc_index count, fc_index channels);        \
        void (*planes_outer)(const T *grad, fc_index g_channel, fc_index g_row, const T *x, const fc_index *offset, fc_index taps, fc_index x_row,   \
                             fc_index x_vector, fc_index nrows, fc_index OW, T *out, fc_index m);                                           \
        void (*lanes_scatter)(const T *grad, const fc_index *g_offset, const T *w, const fc_index *w_offset, fc_index count, T *out, fc_index pixels, \
                              fc_index KW, fc_index stride, fc_index dilation);                                                             \
        void (*window_max)(const T *x, fc_index row, fc_index col, fc_index step, fc_index kh, fc_index kw, int first, fc_index number, T *out,       \
                           int8_t *at, fc_index windows, fc_index channels);                                                                          \
        void (*window_max_back)(const T *grad, const int8_t *at, fc_index row, fc_index col, fc_index step, fc_index kh, fc_index kw, int first,      \
                                fc_index number, T *grad_input, int accumulate, fc_index windows, fc_index channels);                                 \
        void (*window_mean)(const T *x, fc_index row, fc_index step, fc_index kh, fc_index kw, T scale, T *out, fc_index windows,           \
                            fc_index channels);                                                                                             \
        void (*window_mean_back)(const T *grad, fc_index row, fc_index step, fc_index kh, fc_index kw, T scale, T *grad_input,              \
                                 int accumulate, fc_index windows, fc_index channels);                                                      \
        void (*fold_lanes)(const T *x, T *out, fc_index n);                                                                                \
        void (*multiply_add)(const T *x, const T *w, T *out, fc_index n);                                                                  \
        void (*max_pool_lanes)(const T *x, fc_index row, fc_index col, fc_index kh, fc_index kw, int64_t first, int64_t index_row,         \
                               int64_t index_col, T *out, int64_t *index, fc_index n, fc_index lane_stride, int64_t lane_index);           \
        void (*rows_max)(const T *x, fc_index line, fc_index row, fc_index count, fc_index step, fc_index rows, fc_index number, T *out, void *place); \
        void (*rows_sum)(const T *x, fc_index line, fc_index row, fc_index count, fc_index step, fc_index rows, T *out, fc_index out_step); \
        void (*cols_max)(const T *x, const void *place, fc_index step, fc_index col, fc_index kw, int first, T *out, int8_t *at, fc_index n); \
        void (*cols_sum)(const T *x, fc_index step, fc_index kw, T scale, T *out, fc_index n); \
        void (*cols_spread)(const T *grad, fc_index step, fc_index kw, T *out, fc_index n); \
        void (*cols_max_back)(const T *const *grad, const int8_t *const *at, const fc_index *first, fc_index count, fc_index step, fc_index col,      \
                              fc_index kw, T *out, fc_index n, fc_index rows, fc_index in_row, fc_index out_row);                                     \
        void (*tied_pool_back)(const T *x, fc_index row, fc_index col, fc_index kh, fc_index kw, const T *grad, T *grad_input, int split,  \
                               int accumulate, fc_index n, fc_index lane_stride);                                                          \
        void (*add_scaled)(const T *x, T scale, T *out, fc_index n);                                                                       \
        double (*sum)(const T *x, fc_index n);                                                                                             \
        void (*plane_statistics)(const T *x, fc_index plane, fc_index planes, fc_index n, T *mean, double *squares, double *deviation);     \
        void (*grad_sums)(const T *grad, const T *x, fc_index plane, fc_index planes, T mean, fc_index n, double *sum, double *dot);        \
        void (*affine)(const T *x, fc_index plane, fc_index planes, T mean, T scale, T shift, T *out, fc_index n);                          \
        void (*affine2)(const T *grad, const T *x, fc_index plane, fc_index planes, T mean, T k1, T k2, T k3, T *out, fc_index n);          \
        void (*affine_image)(const T *x, fc_index channels, fc_index n, const T *mean, const T *scale, const T *shift, T *out);            \
        void (*affine2_image)(const T *grad, const T *x, fc_index channels, fc_index n, const T *mean, const T *k1, const T *k2, const T *k3, T *out); \
        void (*column_sums)(const T *x, fc_index rows, fc_index cols, fc_index stride, T *sum);                                            \
        void (*column_square_deviations)(const T *x, const T *mean, fc_index rows, fc_index cols, fc_index stride, T *sum, T *deviation);  \
        void (*column_normalise)(int op, T slope, const T *x, const T *mean, const T *scale, const T *shift, fc_index rows, fc_index cols,   \
                                 T *out);                                                                                                   \
        void (*column_grad_sums)(int op, T slope, const T *grad, const T *x, const T *mean, const T *scale, const T *shift, fc_index rows,   \
                                 fc_index cols, T *sum, T *dot);                                                                            \
        void (*column_grad)(int op, T slope, const T *grad, const T *x, const T *mean, const T *scale, const T *shift, const T *k1,          \
                            const T *k2, const T *k3, fc_index rows, fc_index cols, T *out, T *sum);                                        \
        void (*norm_rows)(const T *x, fc_index rows, fc_index n, fc_index first, fc_index period, double eps, const T *weight, const T *bias, T *out); \
        void (*norm_rows_backward)(const T *grad, const T *x, fc_index periods, fc_index n, fc_index period, double eps,                   \
                                   const T *weight, T *out, T *grad_weight, T *grad_bias);                                                 \
        void (*add_parts)(const T *parts, fc_index stride, fc_index count, fc_index n, T *out);                                             \
        double (*square_error)(const T *x, const T *y, fc_index n);                                                                        \
        void (*square_difference)(const T *grad, fc_index step, const T *x, const T *y, T *out, fc_index n);                               \
        void (*row_means)(const T *x, fc_index rows, fc_index n, T *out);                                                                  \
        void (*row_fill)(const T *x, fc_index rows, fc_index n, T divisor, T *out);                                                        \
        void (*eltwise)(int op, const T *x, T *out, fc_index n, T a, T b);                                                                 \
        void (*eltwise_backward)(int op, const T *grad, const T *x, T *out, fc_index n, T a, T b);                                         \
        void (*softmax_rows)(int logarithm, const T *x, fc_index rows, fc_index C, T *out);                                                \
        void (*softmax_rows_backward)(int logarithm, const T *grad, const T *y, fc_index rows, fc_index C, T *out);                        \
        void (*softmax_columns)(int logarithm, const T *x, fc_index C, fc_index stride, fc_index n, T *out);                               \
        void (*softmax_columns_backward)(int logarithm, const T *grad, const T *y, fc_index C, fc_index stride, fc_index n, T *out);       \
        void (*cross_entropy_rows)(const T *x, const int64_t *target, const T *weight, int64_t ignore_index, double smoothing, fc_index    \
                                   rows, fc_index C, double *loss);                                                                        \
        void (*cross_entropy_rows_backward)(const T *grad, fc_index grad_step, const T *x, const int64_t *target, const T *weight,         \
                                            double weights, int64_t ignore_index, double smoothing, fc_index rows, fc_index C, T *out);    \
        void (*sgd)(T *p, const T *grad, T *buffer, fc_index n, const T *k, int first, int nesterov);                                      \
        void (*adam)(T *p, const T *grad, T *mean, T *square, T *largest, fc_index n, const T *k);                                         \
        void (*rmsprop)(T *p, const T *grad, T *square, T *mean, T *buffer, fc_index n, const T *k);                                       \
        void (*adagrad)(T *p, const T *grad, T *sum, fc_index n, const T *k);                                                              \
        void (*stencil_rows)(const T *x, fc_index x_row, fc_index pixels, fc_index rows, T *out, fc_index out_row, fc_index odd);          \
        void (*stencil_merge)(const T *x, fc_index x_row, fc_index odd, T *out, fc_index out_row, fc_index rows, fc_index pixels);         \
        void (*stencil)(const T *x, fc_index x_plane, fc_index x_row, fc_index tap_row, const fc_index *tap_col, fc_index planes,          \
                        fc_index kh, fc_index kw, const T *w, fc_index w_plane, fc_index w_row, fc_index w_col, T bias, T *out,            \
                        fc_index out_row, fc_index rows, fc_index cols);                                                                   \
        void (*stencil_outer)(const T *grad, fc_index g_row, const T *x, fc_index x_row, fc_index tap_row, const fc_index *tap_col,        \
                              fc_index kh, fc_index kw, fc_index rows, fc_index cols, T *out);                                             \
        void (*plane_conv)(const T *x, fc_index x_plane, fc_index H, fc_index W, fc_index top, fc_index left, const T *zeros, const T *w,  \
                           fc_index w_plane, fc_index w_row, fc_index w_col, const T *bias, T *out, fc_index out_plane, fc_index rows,     \
                           fc_index OW, fc_index planes, int k, int s);                                                                    \
        void (*plane_spread)(const T *grad, fc_index g_plane, fc_index OH, fc_index OW, const T *zeros, const T *w, T *out,                \
                             fc_index out_plane, fc_index h, fc_index top, fc_index left, fc_index rows, fc_index W, fc_index planes,      \
                             int k);                                                                                                       \
        void (*plane_outer)(const T *grad, fc_index g_plane, const T *x, fc_index x_plane, fc_index H, fc_index W, fc_index top,           \
                            fc_index left, const T *zeros, fc_index rows, fc_index OW, fc_index planes, T *out, int k, int s);             \
        void (*planes_flat)(const T *w, fc_index w_channel, fc_index w_plane, fc_index w_step, const T *bias, const T *x,                  \
                            fc_index x_plane, const fc_index *offset, fc_index planes, fc_index taps, T *out, fc_index out_channel,        \
                            int m, int nv);                                                                                                \
        double (*fma_probe)(fc_index iterations, T *out); /* returns the floating-point operations done; see bench roofline */             \
    } NAME;

FC_DECLARE_KERNELS(float, fc_kernels_f32)
FC_DECLARE_KERNELS(double, fc_kernels_f64)

/* Winograd's transforms (kernels/winograd.inc) exist in float32 only: who computes in float64 wants the direct algorithm's accuracy. */
typedef struct {
    void (*input)(const float *x, fc_index x_row, fc_index x_pixel, fc_index channels, float *planes, fc_index plane);
    void (*grad)(const float *grad, fc_index g_row, fc_index g_pixel, int rows, int cols, fc_index channels, float *planes, fc_index plane);
    void (*output)(const float *planes, fc_index plane, const float *bias, float *out, fc_index out_row, fc_index out_pixel, int rows, int cols,
                   fc_index channels);
    void (*weight)(const float *w, fc_index tap, fc_index width, float *planes, fc_index plane);
    void (*weight_grad)(const float *planes, fc_index plane, fc_index width, float *out, fc_index tap);
} fc_winograd_kernels;

typedef struct {
    const char *name;
    fc_kernels_f32 f32;
    fc_kernels_f64 f64;
    fc_winograd_kernels winograd;
    uint64_t (*checksum)(const void *data, size_t nbytes);
} fc_isa;

/* dispatch.c */
const fc_isa *fc_active(void);            /* never NULL: the best supported set until fc_select changes it */
int fc_select(const char *name);          /* 0 = done, -1 = this build has no such set, -2 = this CPU or operating system cannot run it */
const char *fc_isa_name(int i);           /* i-th set of this build, best first; NULL after the last */
int fc_isa_supported(int i);              /* can this CPU and operating system run it? */
const char *fc_compiler(void);

#endif
