"""Activations and their derivatives, each pair side by side. `*_backward` multiplies grad_output by the derivative.

Comparisons are written so that NaN goes where PyTorch sends it. Overflow of exp is meant (its limit is the right value), so it is not warned of.
"""

import math

import numpy as np

SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


def relu(input):
    """max(x, 0); Nair & Hinton 2010."""
    return np.maximum(input, 0)


def relu_backward(grad_output, input):
    """1 where x > 0; the derivative at 0 is 0."""
    return np.where(input <= 0, 0, grad_output)


def leaky_relu(input, negative_slope):
    """x, or negative_slope*x below 0; Maas et al. 2013."""
    return np.where(input > 0, input, negative_slope * input)


def leaky_relu_backward(grad_output, input, negative_slope):
    """1 where x > 0, else negative_slope."""
    return np.where(input > 0, grad_output, negative_slope * grad_output)


def slopes(input, weight):
    """PReLU's weight, shaped to broadcast along axis 1 of input."""
    return weight if weight.size == 1 else weight.reshape(-1, *(1,) * (input.ndim - 2))


def prelu(input, weight):
    """x, or weight[c]*x below 0; He et al. 2015 (arXiv:1502.01852)."""
    return np.where(input > 0, input, slopes(input, weight) * input)


def prelu_backward(grad_output, input, weight):
    """-> grad_input, grad_weight: the slope of channel c has the gradient grad_output*x of all its negative inputs."""
    grad_input = np.where(input > 0, grad_output, slopes(input, weight) * grad_output)
    slope_grad = np.where(input > 0, 0, grad_output * input)
    if weight.size == 1:
        return grad_input, slope_grad.sum(keepdims=True).reshape(1)
    return grad_input, slope_grad.sum(axis=tuple(axis for axis in range(input.ndim) if axis != 1))


def elu(input, alpha):
    """x, or alpha*(exp(x) - 1) below 0; Clevert et al. 2016 (arXiv:1511.07289)."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(input > 0, input, alpha * np.expm1(input))


def elu_backward(grad_output, input, alpha):
    """alpha*exp(x) where x <= 0, else 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(input <= 0, grad_output * (alpha * np.exp(input)), grad_output)


def selu(input):
    """SELU_SCALE * elu(x, SELU_ALPHA); Klambauer et al. 2017 (arXiv:1706.02515)."""
    return SELU_SCALE * elu(input, SELU_ALPHA)


def selu_backward(grad_output, input):
    """SELU_SCALE where x > 0, else SELU_SCALE*SELU_ALPHA*exp(x)."""
    return SELU_SCALE * elu_backward(grad_output, input, SELU_ALPHA)


def normal_cdf(input):
    """Phi(x) = erfc(-x/sqrt(2))/2. NumPy has no erf; Python's is exact to the last digit, and erfc does not cancel for x << 0."""
    values = (0.5 * math.erfc(-x * math.sqrt(0.5)) for x in input.ravel().tolist())
    return np.fromiter(values, input.dtype, input.size).reshape(input.shape)


def gelu_tanh_argument(input):
    """sqrt(2/pi) * (x + 0.044715*x^3)."""
    return math.sqrt(2 / math.pi) * (input + 0.044715 * input * input * input)


def gelu(input, approximate):
    """x*Phi(x), or its tanh approximation; Hendrycks & Gimpel 2016 (arXiv:1606.08415)."""
    with np.errstate(over="ignore", invalid="ignore"):
        if approximate == "none":
            return input * normal_cdf(input)
        return 0.5 * input * (1 + np.tanh(gelu_tanh_argument(input)))


def gelu_backward(grad_output, input, approximate):
    """Phi(x) + x*phi(x), phi the normal density; or the derivative of the tanh form."""
    with np.errstate(over="ignore", invalid="ignore"):
        if approximate == "none":
            density = np.exp(-0.5 * input * input) / math.sqrt(2 * math.pi)
            return grad_output * (normal_cdf(input) + input * density)
        t = np.tanh(gelu_tanh_argument(input))
        argument_slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * input * input)
        return grad_output * (0.5 * (1 + t) + 0.5 * input * (1 - t * t) * argument_slope)


def sigmoid(input):
    """1/(1 + exp(-x)), computed from exp(-|x|), which cannot overflow."""
    small = np.exp(-np.abs(input))
    return np.where(input >= 0, 1, small) / (1 + small)


def sigmoid_backward(grad_output, output):
    """y*(1 - y)."""
    return grad_output * (1 - output) * output


def tanh(input):
    """tanh(x)."""
    return np.tanh(input)


def tanh_backward(grad_output, output):
    """1 - y^2."""
    return grad_output * (1 - output * output)


def silu(input):
    """x*sigmoid(x); Elfwing et al. 2018 (arXiv:1702.03118)."""
    with np.errstate(invalid="ignore"):
        return input * sigmoid(input)


def silu_backward(grad_output, input):
    """s*(1 + x*(1 - s)), s = sigmoid(x)."""
    with np.errstate(invalid="ignore"):
        s = sigmoid(input)
        return grad_output * (s * (1 + input * (1 - s)))


def softplus(input, beta, threshold):
    """log(1 + exp(beta*x))/beta, or x itself where beta*x > threshold."""
    scaled = beta * input
    with np.errstate(over="ignore"):
        return np.where(scaled > threshold, input, np.log1p(np.exp(scaled)) / beta)


def softplus_backward(grad_output, input, beta, threshold):
    """sigmoid(beta*x), or 1 where beta*x > threshold."""
    scaled = beta * input
    return np.where(scaled > threshold, grad_output, grad_output * sigmoid(scaled))


def softmax(input, dim):
    """exp(x)/sum(exp(x)) along axis dim; subtracting the maximum changes nothing but keeps exp from overflowing."""
    with np.errstate(invalid="ignore"):
        exp = np.exp(input - input.max(axis=dim, keepdims=True, initial=-np.inf))
        return exp / exp.sum(axis=dim, keepdims=True)


def softmax_backward(grad_output, output, dim):
    """y*(g - sum(g*y)): the Jacobian is diag(y) - y y^T."""
    return output * (grad_output - (grad_output * output).sum(axis=dim, keepdims=True))


def log_softmax(input, dim):
    """log(softmax(x)) without forming the quotient."""
    with np.errstate(invalid="ignore"):
        shifted = input - input.max(axis=dim, keepdims=True, initial=-np.inf)
        return shifted - np.log(np.exp(shifted).sum(axis=dim, keepdims=True))


def log_softmax_backward(grad_output, output, dim):
    """g - softmax(x)*sum(g), softmax(x) = exp(y)."""
    return grad_output - np.exp(output) * grad_output.sum(axis=dim, keepdims=True)


def dropout(input, mask, scale):
    """x*scale where kept, x*0 where dropped: a dropped NaN or inf stays visible; Srivastava et al. 2014."""
    with np.errstate(invalid="ignore"):
        return input * mask * scale


def dropout_backward(grad_output, mask, scale):
    """The same product with grad_output."""
    return dropout(grad_output, mask, scale)
