"""The fully connected layer: output = input @ weight.T + bias, and the same product transposed for each gradient."""


def linear(input, weight, bias):
    """(M,I) x (O,I) [+ (O,)] -> (M,O)."""
    output = input @ weight.T
    if bias is not None:
        output += bias
    return output


def linear_grad_input(grad_output, weight):
    """(M,O) x (O,I) -> (M,I)."""
    return grad_output @ weight


def linear_grad_weight(grad_output, input):
    """(M,O) x (M,I) -> (O,I)."""
    return grad_output.T @ input


def linear_grad_bias(grad_output):
    """(M,O) -> (O,)."""
    return grad_output.sum(axis=0)
