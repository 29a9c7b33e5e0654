# cython: language_level=3
"""csrc/fastcnn.h as Cython sees it: the table of kernels, in elements and pointers. Contracts stand above each kernel in csrc/kernels/."""
from libc.stdint cimport int8_t, int64_t, uint64_t


cdef extern from "fastcnn.h" nogil:
    ctypedef struct fc_kernels_f32:
        int lanes
        int mr
        int nv
        void (*tile)(float** rows, const Py_ssize_t* segment, Py_ssize_t segments, Py_ssize_t length, const float* panel, const float* bias, int accumulate, float** out, int m, int nv, int n) noexcept nogil
        void (*tile_add)(const float* rows, Py_ssize_t row_stride, Py_ssize_t length, const float* panel, float* out, Py_ssize_t out_stride, int m, int nv, int n) noexcept nogil
        void (*tile_outer)(float** rows, Py_ssize_t x_pixel, Py_ssize_t x_row, Py_ssize_t x_image, const float* grad, Py_ssize_t g_pixel, Py_ssize_t g_row, Py_ssize_t g_image, Py_ssize_t pixels, Py_ssize_t nrows, Py_ssize_t images, int accumulate, float* out, Py_ssize_t out_stride, int m, int nv) noexcept nogil
        void (*dots)(const float* x, const float* w, Py_ssize_t w_row, Py_ssize_t length, float* out, int rows) noexcept nogil
        void (*transpose)(const float* src, Py_ssize_t src_stride, float* dst, Py_ssize_t dst_stride, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t rows_out) noexcept nogil
        void (*depthwise)(const float* x, Py_ssize_t x_pixel, Py_ssize_t tap_row, Py_ssize_t tap_col, Py_ssize_t kh, Py_ssize_t kw, const float* w, Py_ssize_t w_tap, const float* bias, float* out, Py_ssize_t out_pixel, Py_ssize_t pixels, Py_ssize_t channels) noexcept nogil
        void (*depthwise_outer)(const float* x, Py_ssize_t x_pixel, Py_ssize_t tap_row, Py_ssize_t tap_col, Py_ssize_t kh, Py_ssize_t kw, const float* grad, Py_ssize_t g_pixel, float* out, Py_ssize_t w_tap, Py_ssize_t pixels, Py_ssize_t channels) noexcept nogil
        void (*planes)(const float* w, Py_ssize_t w_channel, const float* bias, const float* x, const Py_ssize_t* offset, Py_ssize_t taps, Py_ssize_t x_vector, int accumulate, float* out, Py_ssize_t out_channel, Py_ssize_t out_vector, int full, int last, int m, int nv) noexcept nogil
        void (*gather_runs)(const float* x, Py_ssize_t x_channel, Py_ssize_t step, const Py_ssize_t* runs, Py_ssize_t count, float* dst, Py_ssize_t dst_channel, Py_ssize_t channels) noexcept nogil
        void (*expect_runs)(const float* x, Py_ssize_t x_channel, Py_ssize_t step, const Py_ssize_t* runs, Py_ssize_t count, Py_ssize_t channels) noexcept nogil
        void (*planes_outer)(const float* grad, Py_ssize_t g_channel, Py_ssize_t g_row, const float* x, const Py_ssize_t* offset, Py_ssize_t taps, Py_ssize_t x_row, Py_ssize_t x_vector, Py_ssize_t nrows, Py_ssize_t OW, float* out, Py_ssize_t m) noexcept nogil
        void (*lanes_scatter)(const float* grad, const Py_ssize_t* g_offset, const float* w, const Py_ssize_t* w_offset, Py_ssize_t count, float* out, Py_ssize_t pixels, Py_ssize_t KW, Py_ssize_t stride, Py_ssize_t dilation) noexcept nogil
        void (*window_max)(const float* x, Py_ssize_t row, Py_ssize_t col, Py_ssize_t step, Py_ssize_t kh, Py_ssize_t kw, int first, Py_ssize_t number, float* out, int8_t* at, Py_ssize_t windows, Py_ssize_t channels) noexcept nogil
        void (*window_max_back)(const float* grad, const int8_t* at, Py_ssize_t row, Py_ssize_t col, Py_ssize_t step, Py_ssize_t kh, Py_ssize_t kw, int first, Py_ssize_t number, float* grad_input, int accumulate, Py_ssize_t windows, Py_ssize_t channels) noexcept nogil
        void (*window_mean)(const float* x, Py_ssize_t row, Py_ssize_t step, Py_ssize_t kh, Py_ssize_t kw, float scale, float* out, Py_ssize_t windows, Py_ssize_t channels) noexcept nogil
        void (*window_mean_back)(const float* grad, Py_ssize_t row, Py_ssize_t step, Py_ssize_t kh, Py_ssize_t kw, float scale, float* grad_input, int accumulate, Py_ssize_t windows, Py_ssize_t channels) noexcept nogil
        void (*fold_lanes)(const float* x, float* out, Py_ssize_t n) noexcept nogil
        void (*multiply_add)(const float* x, const float* w, float* out, Py_ssize_t n) noexcept nogil
        void (*max_pool_lanes)(const float* x, Py_ssize_t row, Py_ssize_t col, Py_ssize_t kh, Py_ssize_t kw, int64_t first, int64_t index_row, int64_t index_col, float* out, int64_t* index, Py_ssize_t n, Py_ssize_t lane_stride, int64_t lane_index) noexcept nogil
        void (*rows_max)(const float* x, Py_ssize_t line, Py_ssize_t row, Py_ssize_t count, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t number, float* out, void* place) noexcept nogil
        void (*rows_sum)(const float* x, Py_ssize_t line, Py_ssize_t row, Py_ssize_t count, Py_ssize_t step, Py_ssize_t rows, float* out, Py_ssize_t out_step) noexcept nogil
        void (*cols_max)(const float* x, const void* place, Py_ssize_t step, Py_ssize_t col, Py_ssize_t kw, int first, float* out, int8_t* at, Py_ssize_t n) noexcept nogil
        void (*cols_sum)(const float* x, Py_ssize_t step, Py_ssize_t kw, float scale, float* out, Py_ssize_t n) noexcept nogil
        void (*cols_spread)(const float* grad, Py_ssize_t step, Py_ssize_t kw, float* out, Py_ssize_t n) noexcept nogil
        void (*cols_max_back)(const float** grad, const int8_t** at, const Py_ssize_t* first, Py_ssize_t count, Py_ssize_t step, Py_ssize_t col, Py_ssize_t kw, float* out, Py_ssize_t n, Py_ssize_t rows, Py_ssize_t in_row, Py_ssize_t out_row) noexcept nogil
        void (*tied_pool_back)(const float* x, Py_ssize_t row, Py_ssize_t col, Py_ssize_t kh, Py_ssize_t kw, const float* grad, float* grad_input, int split, int accumulate, Py_ssize_t n, Py_ssize_t lane_stride) noexcept nogil
        void (*add_scaled)(const float* x, float scale, float* out, Py_ssize_t n) noexcept nogil
        double (*sum)(const float* x, Py_ssize_t n) noexcept nogil
        void (*plane_statistics)(const float* x, Py_ssize_t plane, Py_ssize_t planes, Py_ssize_t n, float* mean, double* squares, double* deviation) noexcept nogil
        void (*grad_sums)(const float* grad, const float* x, Py_ssize_t plane, Py_ssize_t planes, float mean, Py_ssize_t n, double* sum, double* dot) noexcept nogil
        void (*affine)(const float* x, Py_ssize_t plane, Py_ssize_t planes, float mean, float scale, float shift, float* out, Py_ssize_t n) noexcept nogil
        void (*affine2)(const float* grad, const float* x, Py_ssize_t plane, Py_ssize_t planes, float mean, float k1, float k2, float k3, float* out, Py_ssize_t n) noexcept nogil
        void (*affine_image)(const float* x, Py_ssize_t channels, Py_ssize_t n, const float* mean, const float* scale, const float* shift, float* out) noexcept nogil
        void (*affine2_image)(const float* grad, const float* x, Py_ssize_t channels, Py_ssize_t n, const float* mean, const float* k1, const float* k2, const float* k3, float* out) noexcept nogil
        void (*column_sums)(const float* x, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t stride, float* sum) noexcept nogil
        void (*column_square_deviations)(const float* x, const float* mean, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t stride, float* sum, float* deviation) noexcept nogil
        void (*column_grad_sums)(int op, float slope, const float* grad, const float* x, const float* mean, const float* scale, const float* shift, Py_ssize_t rows, Py_ssize_t cols, float* sum, float* dot) noexcept nogil
        void (*column_normalise)(int op, float slope, const float* x, const float* mean, const float* scale, const float* shift, Py_ssize_t rows, Py_ssize_t cols, float* out) noexcept nogil
        void (*column_grad)(int op, float slope, const float* grad, const float* x, const float* mean, const float* scale, const float* shift, const float* k1, const float* k2, const float* k3, Py_ssize_t rows, Py_ssize_t cols, float* out, float* sum) noexcept nogil
        void (*norm_rows)(const float* x, Py_ssize_t rows, Py_ssize_t n, Py_ssize_t first, Py_ssize_t period, double eps, const float* weight, const float* bias, float* out) noexcept nogil
        void (*norm_rows_backward)(const float* grad, const float* x, Py_ssize_t periods, Py_ssize_t n, Py_ssize_t period, double eps, const float* weight, float* out, float* grad_weight, float* grad_bias) noexcept nogil
        void (*add_parts)(const float* parts, Py_ssize_t stride, Py_ssize_t count, Py_ssize_t n, float* out) noexcept nogil
        double (*square_error)(const float* x, const float* y, Py_ssize_t n) noexcept nogil
        void (*square_difference)(const float* grad, Py_ssize_t step, const float* x, const float* y, float* out, Py_ssize_t n) noexcept nogil
        void (*row_means)(const float* x, Py_ssize_t rows, Py_ssize_t n, float* out) noexcept nogil
        void (*row_fill)(const float* x, Py_ssize_t rows, Py_ssize_t n, float divisor, float* out) noexcept nogil
        void (*eltwise)(int op, const float* x, float* out, Py_ssize_t n, float a, float b) noexcept nogil
        void (*eltwise_backward)(int op, const float* grad, const float* x, float* out, Py_ssize_t n, float a, float b) noexcept nogil
        void (*softmax_rows)(int logarithm, const float* x, Py_ssize_t rows, Py_ssize_t C, float* out) noexcept nogil
        void (*softmax_rows_backward)(int logarithm, const float* grad, const float* y, Py_ssize_t rows, Py_ssize_t C, float* out) noexcept nogil
        void (*softmax_columns)(int logarithm, const float* x, Py_ssize_t C, Py_ssize_t stride, Py_ssize_t n, float* out) noexcept nogil
        void (*softmax_columns_backward)(int logarithm, const float* grad, const float* y, Py_ssize_t C, Py_ssize_t stride, Py_ssize_t n, float* out) noexcept nogil
        void (*cross_entropy_rows)(const float* x, const int64_t* target, const float* weight, int64_t ignore_index, double smoothing, Py_ssize_t rows, Py_ssize_t C, double* loss) noexcept nogil
        void (*cross_entropy_rows_backward)(const float* grad, Py_ssize_t grad_step, const float* x, const int64_t* target, const float* weight, double weights, int64_t ignore_index, double smoothing, Py_ssize_t rows, Py_ssize_t C, float* out) noexcept nogil
        void (*sgd)(float* p, const float* grad, float* buffer, Py_ssize_t n, const float* k, int first, int nesterov) noexcept nogil
        void (*adam)(float* p, const float* grad, float* mean, float* square, float* largest, Py_ssize_t n, const float* k) noexcept nogil
        void (*rmsprop)(float* p, const float* grad, float* square, float* mean, float* buffer, Py_ssize_t n, const float* k) noexcept nogil
        void (*adagrad)(float* p, const float* grad, float* sum, Py_ssize_t n, const float* k) noexcept nogil
        void (*stencil_rows)(const float* x, Py_ssize_t x_row, Py_ssize_t pixels, Py_ssize_t rows, float* out, Py_ssize_t out_row, Py_ssize_t odd) noexcept nogil
        void (*stencil_merge)(const float* x, Py_ssize_t x_row, Py_ssize_t odd, float* out, Py_ssize_t out_row, Py_ssize_t rows, Py_ssize_t pixels) noexcept nogil
        void (*stencil)(const float* x, Py_ssize_t x_plane, Py_ssize_t x_row, Py_ssize_t tap_row, const Py_ssize_t* tap_col, Py_ssize_t planes, Py_ssize_t kh, Py_ssize_t kw, const float* w, Py_ssize_t w_plane, Py_ssize_t w_row, Py_ssize_t w_col, float bias, float* out, Py_ssize_t out_row, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil
        void (*stencil_outer)(const float* grad, Py_ssize_t g_row, const float* x, Py_ssize_t x_row, Py_ssize_t tap_row, const Py_ssize_t* tap_col, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t rows, Py_ssize_t cols, float* out) noexcept nogil
        void (*plane_conv)(const float* x, Py_ssize_t x_plane, Py_ssize_t H, Py_ssize_t W, Py_ssize_t top, Py_ssize_t left, const float* zeros, const float* w, Py_ssize_t w_plane, Py_ssize_t w_row, Py_ssize_t w_col, const float* bias, float* out, Py_ssize_t out_plane, Py_ssize_t rows, Py_ssize_t OW, Py_ssize_t planes, int k, int s) noexcept nogil
        void (*plane_spread)(const float* grad, Py_ssize_t g_plane, Py_ssize_t OH, Py_ssize_t OW, const float* zeros, const float* w, float* out, Py_ssize_t out_plane, Py_ssize_t h, Py_ssize_t top, Py_ssize_t left, Py_ssize_t rows, Py_ssize_t W, Py_ssize_t planes, int k) noexcept nogil
        void (*plane_outer)(const float* grad, Py_ssize_t g_plane, const float* x, Py_ssize_t x_plane, Py_ssize_t H, Py_ssize_t W, Py_ssize_t top, Py_ssize_t left, const float* zeros, Py_ssize_t rows, Py_ssize_t OW, Py_ssize_t planes, float* out, int k, int s) noexcept nogil
        void (*planes_flat)(const float* w, Py_ssize_t w_channel, Py_ssize_t w_plane, Py_ssize_t w_step, const float* bias, const float* x, Py_ssize_t x_plane, const Py_ssize_t* offset, Py_ssize_t planes, Py_ssize_t taps, float* out, Py_ssize_t out_channel, int m, int nv) noexcept nogil
        double (*fma_probe)(Py_ssize_t iterations, float* out) noexcept nogil

    ctypedef struct fc_kernels_f64:
        int lanes
        int mr
        int nv
        void (*tile)(double** rows, const Py_ssize_t* segment, Py_ssize_t segments, Py_ssize_t length, const double* panel, const double* bias, int accumulate, double** out, int m, int nv, int n) noexcept nogil
        void (*tile_add)(const double* rows, Py_ssize_t row_stride, Py_ssize_t length, const double* panel, double* out, Py_ssize_t out_stride, int m, int nv, int n) noexcept nogil
        void (*tile_outer)(double** rows, Py_ssize_t x_pixel, Py_ssize_t x_row, Py_ssize_t x_image, const double* grad, Py_ssize_t g_pixel, Py_ssize_t g_row, Py_ssize_t g_image, Py_ssize_t pixels, Py_ssize_t nrows, Py_ssize_t images, int accumulate, double* out, Py_ssize_t out_stride, int m, int nv) noexcept nogil
        void (*dots)(const double* x, const double* w, Py_ssize_t w_row, Py_ssize_t length, double* out, int rows) noexcept nogil
        void (*transpose)(const double* src, Py_ssize_t src_stride, double* dst, Py_ssize_t dst_stride, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t rows_out) noexcept nogil
        void (*depthwise)(const double* x, Py_ssize_t x_pixel, Py_ssize_t tap_row, Py_ssize_t tap_col, Py_ssize_t kh, Py_ssize_t kw, const double* w, Py_ssize_t w_tap, const double* bias, double* out, Py_ssize_t out_pixel, Py_ssize_t pixels, Py_ssize_t channels) noexcept nogil
        void (*depthwise_outer)(const double* x, Py_ssize_t x_pixel, Py_ssize_t tap_row, Py_ssize_t tap_col, Py_ssize_t kh, Py_ssize_t kw, const double* grad, Py_ssize_t g_pixel, double* out, Py_ssize_t w_tap, Py_ssize_t pixels, Py_ssize_t channels) noexcept nogil
        void (*planes)(const double* w, Py_ssize_t w_channel, const double* bias, const double* x, const Py_ssize_t* offset, Py_ssize_t taps, Py_ssize_t x_vector, int accumulate, double* out, Py_ssize_t out_channel, Py_ssize_t out_vector, int full, int last, int m, int nv) noexcept nogil
        void (*gather_runs)(const double* x, Py_ssize_t x_channel, Py_ssize_t step, const Py_ssize_t* runs, Py_ssize_t count, double* dst, Py_ssize_t dst_channel, Py_ssize_t channels) noexcept nogil
        void (*expect_runs)(const double* x, Py_ssize_t x_channel, Py_ssize_t step, const Py_ssize_t* runs, Py_ssize_t count, Py_ssize_t channels) noexcept nogil
        void (*planes_outer)(const double* grad, Py_ssize_t g_channel, Py_ssize_t g_row, const double* x, const Py_ssize_t* offset, Py_ssize_t taps, Py_ssize_t x_row, Py_ssize_t x_vector, Py_ssize_t nrows, Py_ssize_t OW, double* out, Py_ssize_t m) noexcept nogil
        void (*lanes_scatter)(const double* grad, const Py_ssize_t* g_offset, const double* w, const Py_ssize_t* w_offset, Py_ssize_t count, double* out, Py_ssize_t pixels, Py_ssize_t KW, Py_ssize_t stride, Py_ssize_t dilation) noexcept nogil
        void (*window_max)(const double* x, Py_ssize_t row, Py_ssize_t col, Py_ssize_t step, Py_ssize_t kh, Py_ssize_t kw, int first, Py_ssize_t number, double* out, int8_t* at, Py_ssize_t windows, Py_ssize_t channels) noexcept nogil
        void (*window_max_back)(const double* grad, const int8_t* at, Py_ssize_t row, Py_ssize_t col, Py_ssize_t step, Py_ssize_t kh, Py_ssize_t kw, int first, Py_ssize_t number, double* grad_input, int accumulate, Py_ssize_t windows, Py_ssize_t channels) noexcept nogil
        void (*window_mean)(const double* x, Py_ssize_t row, Py_ssize_t step, Py_ssize_t kh, Py_ssize_t kw, double scale, double* out, Py_ssize_t windows, Py_ssize_t channels) noexcept nogil
        void (*window_mean_back)(const double* grad, Py_ssize_t row, Py_ssize_t step, Py_ssize_t kh, Py_ssize_t kw, double scale, double* grad_input, int accumulate, Py_ssize_t windows, Py_ssize_t channels) noexcept nogil
        void (*fold_lanes)(const double* x, double* out, Py_ssize_t n) noexcept nogil
        void (*multiply_add)(const double* x, const double* w, double* out, Py_ssize_t n) noexcept nogil
        void (*max_pool_lanes)(const double* x, Py_ssize_t row, Py_ssize_t col, Py_ssize_t kh, Py_ssize_t kw, int64_t first, int64_t index_row, int64_t index_col, double* out, int64_t* index, Py_ssize_t n, Py_ssize_t lane_stride, int64_t lane_index) noexcept nogil
        void (*rows_max)(const double* x, Py_ssize_t line, Py_ssize_t row, Py_ssize_t count, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t number, double* out, void* place) noexcept nogil
        void (*rows_sum)(const double* x, Py_ssize_t line, Py_ssize_t row, Py_ssize_t count, Py_ssize_t step, Py_ssize_t rows, double* out, Py_ssize_t out_step) noexcept nogil
        void (*cols_max)(const double* x, const void* place, Py_ssize_t step, Py_ssize_t col, Py_ssize_t kw, int first, double* out, int8_t* at, Py_ssize_t n) noexcept nogil
        void (*cols_sum)(const double* x, Py_ssize_t step, Py_ssize_t kw, double scale, double* out, Py_ssize_t n) noexcept nogil
        void (*cols_spread)(const double* grad, Py_ssize_t step, Py_ssize_t kw, double* out, Py_ssize_t n) noexcept nogil
        void (*cols_max_back)(const double** grad, const int8_t** at, const Py_ssize_t* first, Py_ssize_t count, Py_ssize_t step, Py_ssize_t col, Py_ssize_t kw, double* out, Py_ssize_t n, Py_ssize_t rows, Py_ssize_t in_row, Py_ssize_t out_row) noexcept nogil
        void (*tied_pool_back)(const double* x, Py_ssize_t row, Py_ssize_t col, Py_ssize_t kh, Py_ssize_t kw, const double* grad, double* grad_input, int split, int accumulate, Py_ssize_t n, Py_ssize_t lane_stride) noexcept nogil
        void (*add_scaled)(const double* x, double scale, double* out, Py_ssize_t n) noexcept nogil
        double (*sum)(const double* x, Py_ssize_t n) noexcept nogil
        void (*plane_statistics)(const double* x, Py_ssize_t plane, Py_ssize_t planes, Py_ssize_t n, double* mean, double* squares, double* deviation) noexcept nogil
        void (*grad_sums)(const double* grad, const double* x, Py_ssize_t plane, Py_ssize_t planes, double mean, Py_ssize_t n, double* sum, double* dot) noexcept nogil
        void (*affine)(const double* x, Py_ssize_t plane, Py_ssize_t planes, double mean, double scale, double shift, double* out, Py_ssize_t n) noexcept nogil
        void (*affine2)(const double* grad, const double* x, Py_ssize_t plane, Py_ssize_t planes, double mean, double k1, double k2, double k3, double* out, Py_ssize_t n) noexcept nogil
        void (*affine_image)(const double* x, Py_ssize_t channels, Py_ssize_t n, const double* mean, const double* scale, const double* shift, double* out) noexcept nogil
        void (*affine2_image)(const double* grad, const double* x, Py_ssize_t channels, Py_ssize_t n, const double* mean, const double* k1, const double* k2, const double* k3, double* out) noexcept nogil
        void (*column_sums)(const double* x, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t stride, double* sum) noexcept nogil
        void (*column_square_deviations)(const double* x, const double* mean, Py_ssize_t rows, Py_ssize_t cols, Py_ssize_t stride, double* sum, double* deviation) noexcept nogil
        void (*column_grad_sums)(int op, double slope, const double* grad, const double* x, const double* mean, const double* scale, const double* shift, Py_ssize_t rows, Py_ssize_t cols, double* sum, double* dot) noexcept nogil
        void (*column_normalise)(int op, double slope, const double* x, const double* mean, const double* scale, const double* shift, Py_ssize_t rows, Py_ssize_t cols, double* out) noexcept nogil
        void (*column_grad)(int op, double slope, const double* grad, const double* x, const double* mean, const double* scale, const double* shift, const double* k1, const double* k2, const double* k3, Py_ssize_t rows, Py_ssize_t cols, double* out, double* sum) noexcept nogil
        void (*norm_rows)(const double* x, Py_ssize_t rows, Py_ssize_t n, Py_ssize_t first, Py_ssize_t period, double eps, const double* weight, const double* bias, double* out) noexcept nogil
        void (*norm_rows_backward)(const double* grad, const double* x, Py_ssize_t periods, Py_ssize_t n, Py_ssize_t period, double eps, const double* weight, double* out, double* grad_weight, double* grad_bias) noexcept nogil
        void (*add_parts)(const double* parts, Py_ssize_t stride, Py_ssize_t count, Py_ssize_t n, double* out) noexcept nogil
        double (*square_error)(const double* x, const double* y, Py_ssize_t n) noexcept nogil
        void (*square_difference)(const double* grad, Py_ssize_t step, const double* x, const double* y, double* out, Py_ssize_t n) noexcept nogil
        void (*row_means)(const double* x, Py_ssize_t rows, Py_ssize_t n, double* out) noexcept nogil
        void (*row_fill)(const double* x, Py_ssize_t rows, Py_ssize_t n, double divisor, double* out) noexcept nogil
        void (*eltwise)(int op, const double* x, double* out, Py_ssize_t n, double a, double b) noexcept nogil
        void (*eltwise_backward)(int op, const double* grad, const double* x, double* out, Py_ssize_t n, double a, double b) noexcept nogil
        void (*softmax_rows)(int logarithm, const double* x, Py_ssize_t rows, Py_ssize_t C, double* out) noexcept nogil
        void (*softmax_rows_backward)(int logarithm, const double* grad, const double* y, Py_ssize_t rows, Py_ssize_t C, double* out) noexcept nogil
        void (*softmax_columns)(int logarithm, const double* x, Py_ssize_t C, Py_ssize_t stride, Py_ssize_t n, double* out) noexcept nogil
        void (*softmax_columns_backward)(int logarithm, const double* grad, const double* y, Py_ssize_t C, Py_ssize_t stride, Py_ssize_t n, double* out) noexcept nogil
        void (*cross_entropy_rows)(const double* x, const int64_t* target, const double* weight, int64_t ignore_index, double smoothing, Py_ssize_t rows, Py_ssize_t C, double* loss) noexcept nogil
        void (*cross_entropy_rows_backward)(const double* grad, Py_ssize_t grad_step, const double* x, const int64_t* target, const double* weight, double weights, int64_t ignore_index, double smoothing, Py_ssize_t rows, Py_ssize_t C, double* out) noexcept nogil
        void (*sgd)(double* p, const double* grad, double* buffer, Py_ssize_t n, const double* k, int first, int nesterov) noexcept nogil
        void (*adam)(double* p, const double* grad, double* mean, double* square, double* largest, Py_ssize_t n, const double* k) noexcept nogil
        void (*rmsprop)(double* p, const double* grad, double* square, double* mean, double* buffer, Py_ssize_t n, const double* k) noexcept nogil
        void (*adagrad)(double* p, const double* grad, double* sum, Py_ssize_t n, const double* k) noexcept nogil
        void (*stencil_rows)(const double* x, Py_ssize_t x_row, Py_ssize_t pixels, Py_ssize_t rows, double* out, Py_ssize_t out_row, Py_ssize_t odd) noexcept nogil
        void (*stencil_merge)(const double* x, Py_ssize_t x_row, Py_ssize_t odd, double* out, Py_ssize_t out_row, Py_ssize_t rows, Py_ssize_t pixels) noexcept nogil
        void (*stencil)(const double* x, Py_ssize_t x_plane, Py_ssize_t x_row, Py_ssize_t tap_row, const Py_ssize_t* tap_col, Py_ssize_t planes, Py_ssize_t kh, Py_ssize_t kw, const double* w, Py_ssize_t w_plane, Py_ssize_t w_row, Py_ssize_t w_col, double bias, double* out, Py_ssize_t out_row, Py_ssize_t rows, Py_ssize_t cols) noexcept nogil
        void (*stencil_outer)(const double* grad, Py_ssize_t g_row, const double* x, Py_ssize_t x_row, Py_ssize_t tap_row, const Py_ssize_t* tap_col, Py_ssize_t kh, Py_ssize_t kw, Py_ssize_t rows, Py_ssize_t cols, double* out) noexcept nogil
        void (*plane_conv)(const double* x, Py_ssize_t x_plane, Py_ssize_t H, Py_ssize_t W, Py_ssize_t top, Py_ssize_t left, const double* zeros, const double* w, Py_ssize_t w_plane, Py_ssize_t w_row, Py_ssize_t w_col, const double* bias, double* out, Py_ssize_t out_plane, Py_ssize_t rows, Py_ssize_t OW, Py_ssize_t planes, int k, int s) noexcept nogil
        void (*plane_spread)(const double* grad, Py_ssize_t g_plane, Py_ssize_t OH, Py_ssize_t OW, const double* zeros, const double* w, double* out, Py_ssize_t out_plane, Py_ssize_t h, Py_ssize_t top, Py_ssize_t left, Py_ssize_t rows, Py_ssize_t W, Py_ssize_t planes, int k) noexcept nogil
        void (*plane_outer)(const double* grad, Py_ssize_t g_plane, const double* x, Py_ssize_t x_plane, Py_ssize_t H, Py_ssize_t W, Py_ssize_t top, Py_ssize_t left, const double* zeros, Py_ssize_t rows, Py_ssize_t OW, Py_ssize_t planes, double* out, int k, int s) noexcept nogil
        void (*planes_flat)(const double* w, Py_ssize_t w_channel, Py_ssize_t w_plane, Py_ssize_t w_step, const double* bias, const double* x, Py_ssize_t x_plane, const Py_ssize_t* offset, Py_ssize_t planes, Py_ssize_t taps, double* out, Py_ssize_t out_channel, int m, int nv) noexcept nogil
        double (*fma_probe)(Py_ssize_t iterations, double* out) noexcept nogil

    ctypedef struct fc_winograd_kernels:
        void (*input)(const float* x, Py_ssize_t x_row, Py_ssize_t x_pixel, Py_ssize_t channels, float* planes, Py_ssize_t plane) noexcept nogil
        void (*grad)(const float* grad, Py_ssize_t g_row, Py_ssize_t g_pixel, int rows, int cols, Py_ssize_t channels, float* planes, Py_ssize_t plane) noexcept nogil
        void (*output)(const float* planes, Py_ssize_t plane, const float* bias, float* out, Py_ssize_t out_row, Py_ssize_t out_pixel, int rows, int cols, Py_ssize_t channels) noexcept nogil
        void (*weight)(const float* w, Py_ssize_t tap, Py_ssize_t width, float* planes, Py_ssize_t plane) noexcept nogil
        void (*weight_grad)(const float* planes, Py_ssize_t plane, Py_ssize_t width, float* out, Py_ssize_t tap) noexcept nogil

    ctypedef struct fc_isa:
        const char* name
        fc_kernels_f32 f32
        fc_kernels_f64 f64
        fc_winograd_kernels winograd
        uint64_t (*checksum)(const void* data, size_t nbytes) noexcept nogil

    enum:
        FC_RELU
        FC_LEAKY_RELU
        FC_ELU
        FC_SELU
        FC_GELU_ERF
        FC_GELU_TANH
        FC_SILU
        FC_SOFTPLUS
        FC_SIGMOID
        FC_TANH
