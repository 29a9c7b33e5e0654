"""THE op table: every primitive that a backend implements, with its parameters, shapes and formula.

Backends are called by fastcnn.functional only, which has validated everything: arrays are float32 or float64 in native byte order, aligned, of
any strides that are multiples of the element size, all of one dtype; options are Python ints, floats, bools and strings, tuples of ints where a pair is
meant. A backend never modifies its inputs, returns fresh arrays of the input's dtype in any memory order, and accepts N = 0.
The optimizers' updates are the exception: fastcnn.optim calls them, with lists of arrays, and they change parameters and states in place.

Letters as in fastcnn/shapes.py. Convolution padding is ((PT, PB), (PL, PR)); pool padding is (PH, PW). * stands for any number of axes.

Losses see a matrix: input (M, C) with target (M,) int64 or (M, C). Class numbers are checked by the backend, where they are read anyway: ValueError
for one that is neither in 0 to C - 1 nor ignore_index (fastcnn/backends/targets.py). The result is (M,) for reduction 'none', else a 0-d array or scalar;
their grad_output is an (M,) array or a Python float likewise. The element-wise losses are the same with any shape * in place of (M,).
"""

from __future__ import annotations

from typing import NamedTuple


class Op(NamedTuple):
    """One primitive: what every backend's function of this name takes, returns and computes."""

    name: str
    parameters: tuple[str, ...]
    shapes: str
    formula: str


OPS: dict[str, Op] = {}


def _op(name: str, parameters: str, shapes: str, formula: str) -> None:
    OPS[name] = Op(name, tuple(parameters.split()), shapes, formula)


# Convolution. Tap (kh, kw) pairs output pixel (oh, ow) with input pixel (oh*SH + kh*DH - PT, ow*SW + kw*DW - PL); outside pixels are 0.
_op("conv2d", "input weight bias stride padding dilation groups",
    "(N,C,H,W) x (O,C/G,KH,KW) [+ (O,)] -> (N,O,OH,OW)",
    "output[n,o,oh,ow] = bias[o] + sum over c,kh,kw of weight[o,c,kh,kw] * input[n, g(o)*C/G + c, oh*SH + kh*DH - PT, ow*SW + kw*DW - PL]")
_op("conv2d_grad_input", "grad_output weight input_shape stride padding dilation groups",
    "(N,O,OH,OW) x (O,C/G,KH,KW) -> (N,C,H,W)",
    "the transpose of conv2d in input: every product grad_output[n,o,oh,ow] * weight[o,c,kh,kw] is added to the input pixel it came from")
_op("conv2d_grad_weight", "grad_output input weight_shape stride padding dilation groups",
    "(N,O,OH,OW) x (N,C,H,W) -> (O,C/G,KH,KW)",
    "grad_weight[o,c,kh,kw] = sum over n,oh,ow of grad_output[n,o,oh,ow] * input[n, g(o)*C/G + c, oh*SH + kh*DH - PT, ow*SW + kw*DW - PL]")
_op("channels_last", "input", "(N,C,H,W) -> (N,C,H,W)", "the same numbers in memory as (N,H,W,C)")
_op("conv2d_grad_bias", "grad_output", "(N,O,OH,OW) -> (O,)", "sum over n,oh,ow")

_op("linear", "input weight bias", "(M,I) x (O,I) [+ (O,)] -> (M,O)", "input @ weight.T + bias")
_op("linear_grad_input", "grad_output weight", "(M,O) x (O,I) -> (M,I)", "grad_output @ weight")
_op("linear_grad_weight", "grad_output input", "(M,O) x (M,I) -> (O,I)", "grad_output.T @ input")
_op("linear_grad_bias", "grad_output", "(M,O) -> (O,)", "sum over the rows")

# Pooling and windows.
_op("unfold", "input kernel_size dilation padding stride",
    "(N,C,H,W) -> (N, C*KH*KW, OH*OW)", "column oh*OW + ow holds the window of output pixel (oh, ow), rows ordered c, kh, kw")
_op("fold", "input output_size kernel_size dilation padding stride",
    "(N, C*KH*KW, OH*OW) -> (N,C,H,W), (H,W) = output_size", "the transpose of unfold: overlapping values are added")
_op("im2col", "input kernel_size dilation padding stride columns",
    "(N,C,H,W) -> 'torch': (N, C*KH*KW, OH*OW), 'dlfs': (N*OH*OW, C*KH*KW), 'cs231n': (C*KH*KW, OH*OW*N), 'cs231n_6d': (C,KH,KW,N,OH,OW)",
    "unfold, its elements (n, c, kh, kw, oh, ow) ordered as said")
_op("col2im", "input input_shape kernel_size dilation padding stride columns",
    "columns as of im2col -> (N,C,H,W) = input_shape", "the transpose of im2col: overlapping values are added")
_op("max_pool2d", "input kernel_size stride padding dilation output_size winners",
    "(N,C,H,W) -> (N,C,OH,OW), (N,C,OH,OW) or None",
    "window maximum; where the first maximum is, the last NaN if there is one, as `winners` asks: None: not told (None); 'indices': h*W + w, int64; "
    "'places': kh*KW + kw, int8, or as 'indices' where KH*KW > 127")
_op("max_pool2d_backward", "grad_output indices input_shape",
    "(N,C,OH,OW), (N,C,OH,OW) -> (N,C,H,W)", "grad_input[n,c].flat[indices] += grad_output; serves adaptive_max_pool2d too")
_op("max_pool2d_backward_places", "grad_output places input_shape kernel_size stride padding dilation",
    "(N,C,OH,OW), int8 (N,C,OH,OW) -> (N,C,H,W)", "the same with max_pool2d's places; a place outside its window or the input gets nothing")
_op("max_pool2d_backward_ties", "grad_output input kernel_size stride padding dilation ties accumulate",
    "(N,C,OH,OW), (N,C,H,W) -> (N,C,H,W)",
    "every pixel that equals its window's maximum gets grad_output ('all') or grad_output / how many there are ('split'), the first of them all of it "
    "('first'); where there is a NaN, the last NaN ('first') or nobody. Overlapping windows add, or without accumulate the last one (oh, ow) stays")
_op("avg_pool2d", "input kernel_size stride padding output_size count_include_pad divisor_override",
    "(N,C,H,W) -> (N,C,OH,OW)",
    "window sum / divisor; divisor = divisor_override, or the window's pixels within the padded (count_include_pad) or unpadded input")
_op("avg_pool2d_backward", "grad_output input_shape kernel_size stride padding count_include_pad divisor_override",
    "(N,C,OH,OW) -> (N,C,H,W)", "grad_output / divisor, added to every input pixel of the window")
_op("adaptive_avg_pool2d", "input output_size",
    "(N,C,H,W) -> (N,C,OH,OW)", "mean of rows floor(oh*H/OH) to ceil((oh+1)*H/OH), columns likewise")
_op("adaptive_avg_pool2d_backward", "grad_output input_shape", "(N,C,OH,OW) -> (N,C,H,W)", "grad_output / window size, added to the window")
_op("adaptive_max_pool2d", "input output_size winners", "(N,C,H,W) -> (N,C,OH,OW), int64 (N,C,OH,OW) or None",
    "as max_pool2d over adaptive windows; winners None or 'indices'")

# Normalisation. z = (input - mean) / sqrt(var + eps), var biased.
_op("batch_norm", "input weight bias mean var eps",
    "(N,C,H,W) [x (C,), (C,), (C,), (C,)] -> (N,C,H,W), mean (C,), var (C,)",
    "z*weight + bias; mean and var over N,H,W are computed if mean is None, else used as given; both are returned")
_op("batch_norm_backward", "grad_output input weight mean var eps training",
    "(N,C,H,W) x 2, (C,) x 3 -> (N,C,H,W), (C,), (C,)",
    "grad_weight = sum(grad_output*z), grad_bias = sum(grad_output); "
    "grad_input = weight/sqrt(var+eps) * (grad_output - [training] (grad_bias + z*grad_weight)/(N*H*W))")
_op("layer_norm", "input normalized_shape weight bias eps",
    "(*, normalized_shape) [x normalized_shape x 2] -> the same", "z*weight + bias, statistics over the trailing normalized_shape axes")
_op("layer_norm_backward", "grad_output input normalized_shape weight eps",
    "(*, normalized_shape) x 2 -> the same, normalized_shape, normalized_shape", "as batch_norm_backward with statistics per leading index")
_op("group_norm", "input num_groups weight bias eps",
    "(N,C,H,W) [x (C,), (C,)] -> (N,C,H,W)", "z*weight[c] + bias[c], statistics per image over each of num_groups runs of C/num_groups channels")
_op("group_norm_backward", "grad_output input num_groups weight eps",
    "(N,C,H,W) x 2 -> (N,C,H,W), (C,), (C,)", "as batch_norm_backward with statistics per image and group")

# Activations: any shape; *_backward multiplies grad_output by the derivative.
_op("relu", "input", "* -> *", "max(input, 0)")
_op("relu_backward", "grad_output input", "*, * -> *", "0 where input <= 0, else grad_output")
_op("leaky_relu", "input negative_slope", "* -> *", "input if input > 0 else negative_slope*input")
_op("leaky_relu_backward", "grad_output input negative_slope", "*, * -> *", "grad_output * (1 if input > 0 else negative_slope)")
_op("prelu", "input weight", "(N,C,*) x (C,) or * x (1,) -> the same as input", "input if input > 0 else weight[c]*input")
_op("prelu_backward", "grad_output input weight", "*, *, (C,) or (1,) -> *, like weight",
    "grad_input as leaky_relu_backward; grad_weight[c] = sum of grad_output*input where not input > 0")
_op("elu", "input alpha", "* -> *", "input if input > 0 else alpha*(exp(input) - 1)")
_op("elu_backward", "grad_output input alpha", "*, * -> *", "grad_output * (alpha*exp(input) if input <= 0 else 1)")
_op("selu", "input", "* -> *", "SELU_SCALE * elu(input, SELU_ALPHA)")
_op("selu_backward", "grad_output input", "*, * -> *", "SELU_SCALE * elu_backward(grad_output, input, SELU_ALPHA)")
_op("gelu", "input approximate", "* -> *",
    "input * Phi(input), Phi the normal distribution ('none'), or 0.5*input*(1 + tanh(sqrt(2/pi)*(input + 0.044715*input^3))) ('tanh')")
_op("gelu_backward", "grad_output input approximate", "*, * -> *", "grad_output * (Phi + input*phi), or the derivative of the tanh form")
_op("silu", "input", "* -> *", "input * sigmoid(input)")
_op("silu_backward", "grad_output input", "*, * -> *", "grad_output * s*(1 + input*(1 - s)), s = sigmoid(input)")
_op("softplus", "input beta threshold", "* -> *", "log(1 + exp(beta*input))/beta, input itself where beta*input > threshold")
_op("softplus_backward", "grad_output input beta threshold", "*, * -> *", "grad_output * sigmoid(beta*input), grad_output where beta*input > threshold")
_op("sigmoid", "input", "* -> *", "1/(1 + exp(-input))")
_op("sigmoid_backward", "grad_output output", "*, * -> *", "grad_output * output*(1 - output)")
_op("tanh", "input", "* -> *", "tanh(input)")
_op("tanh_backward", "grad_output output", "*, * -> *", "grad_output * (1 - output^2)")
_op("softmax", "input dim", "* -> *", "exp(input - max) / sum(exp(input - max)) along axis dim >= 0")
_op("softmax_backward", "grad_output output dim", "*, * -> *", "output * (grad_output - sum(grad_output*output))")
_op("log_softmax", "input dim", "* -> *", "input - max - log(sum(exp(input - max))) along axis dim >= 0")
_op("log_softmax_backward", "grad_output output dim", "*, * -> *", "grad_output - exp(output)*sum(grad_output)")
_op("dropout", "input mask scale", "*, bool * -> *", "input*scale where mask, else input*0")
_op("dropout_backward", "grad_output mask scale", "*, bool * -> *", "grad_output*scale where mask, else grad_output*0")

# Losses.
_op("cross_entropy", "input target weight ignore_index reduction label_smoothing",
    "(M,C), (M,) int64 or (M,C) probabilities [, (C,)] -> (M,) or ()",
    "-sum over c of q[c]*weight[c]*log_softmax(input)[c], q = (1 - s)*target + s/C; rows whose target is ignore_index count 0; "
    "'mean' divides by the sum of weight[target] over the other rows (class targets) or by M (probabilities)")
_op("cross_entropy_backward", "grad_output input target weight ignore_index reduction label_smoothing",
    "(M,) or float, (M,C), as forward -> (M,C)", "grad_output * (softmax(input)*sum(q*weight) - q*weight), divided as forward")
_op("nll_loss", "input target weight ignore_index reduction",
    "(M,C), (M,) int64 [, (C,)] -> (M,) or ()", "-weight[target]*input[target]; 'mean' as cross_entropy")
_op("nll_loss_backward", "grad_output input target weight ignore_index reduction",
    "(M,) or float, as forward -> (M,C)", "-grad_output*weight[target] at target")
_op("mse_loss", "input target reduction", "*, * -> * or ()", "(input - target)^2")
_op("mse_loss_backward", "grad_output input target reduction", "* or float, *, * -> *", "2*grad_output*(input - target), divided as forward")
_op("binary_cross_entropy", "input target weight reduction",
    "*, * [, *] -> * or ()", "-weight*(target*log(input) + (1 - target)*log(1 - input)), logarithms >= -100")
_op("binary_cross_entropy_backward", "grad_output input target weight reduction", "* or float, as forward -> *",
    "grad_output*weight*(input - target) / max(input*(1 - input), 1e-12)")
_op("binary_cross_entropy_with_logits", "input target weight pos_weight reduction", "*, * [, *] [, *] -> * or ()",
    "weight*((1 - target)*input + (1 + (pos_weight - 1)*target)*log(1 + exp(-input)))")
_op("binary_cross_entropy_with_logits_backward", "grad_output input target weight pos_weight reduction", "* or float, as forward -> *",
    "grad_output*weight*((pos_weight*target + 1 - target)*sigmoid(input) - pos_weight*target)")

# Padding and resizing.
_op("pad", "input padding mode value",
    "* -> *", "padding ((before, after), ...) per axis; mode constant (negative numbers crop), reflect, replicate or circular")
_op("pad_backward", "grad_output input_shape padding mode", "* -> input_shape", "every padded value's gradient is added to the element it was copied from")
_op("interpolate", "input output_size mode align_corners scales",
    "(N,C,H,W) -> (N,C,OH,OW)",
    "nearest: input[floor(o*r)]; bilinear: the two neighbours of (o + 0.5)*r - 0.5 (>= 0), or of o*(size - 1)/(out - 1) with align_corners; "
    "r = 1/scales if given, else size/out")
_op("interpolate_backward", "grad_output input_shape mode align_corners scales", "(N,C,OH,OW) -> (N,C,H,W)", "the transpose of interpolate")

# Optimizer updates, in place: params, grads and each list of states hold one array per parameter, of the same shape and dtype and of any strides each
# (different parameters may differ in dtype); an absent state is None instead of a list. steps[i] counts parameter i's updates, this one included.
# Formulas per element, with g = (-grad if maximize else grad) + weight_decay*param. Nothing is returned.
_op("sgd_update", "params grads momentum_buffers steps lr momentum dampening weight_decay nesterov maximize",
    "[*], [*] [, [*]] -> params, momentum_buffers",
    "without buffers u = g; else b = momentum*b + (1 - dampening)*g, b = g at step 1, and u = b, or g + momentum*b if nesterov; param -= lr*u")
_op("adagrad_update", "params grads sums steps lr lr_decay eps weight_decay maximize",
    "[*], [*], [*] -> params, sums", "s += g^2; param -= lr/(1 + (step - 1)*lr_decay) * g/(sqrt(s) + eps)")
_op("rmsprop_update", "params grads square_avgs grad_avgs momentum_buffers lr alpha eps momentum weight_decay maximize",
    "[*], [*], [*] [, [*]] [, [*]] -> params, square_avgs, grad_avgs, momentum_buffers",
    "v = alpha*v + (1 - alpha)*g^2, u = g/(sqrt(v) + eps), with grad_avgs a += (1 - alpha)*(g - a) and sqrt(v - a^2); "
    "with momentum_buffers b = momentum*b + u and u = b; param -= lr*u")
_op("adam_update", "params grads exp_avgs exp_avg_sqs max_exp_avg_sqs steps lr beta1 beta2 eps weight_decay decoupled maximize",
    "[*], [*], [*], [*] [, [*]] -> params, exp_avgs, exp_avg_sqs, max_exp_avg_sqs",
    "m += (1 - beta1)*(g - m), v = beta2*v + (1 - beta2)*g^2, with max_exp_avg_sqs v = the largest so far; "
    "param -= lr/(1 - beta1^step) * m/(sqrt(v/(1 - beta2^step)) + eps); decoupled: no weight decay in g, but param *= 1 - lr*weight_decay first")
