"""The worked example of one forward and backward pass, to the printed digits, and correlation beside true convolution."""

import numpy as np
import pytest

import fastcnn.functional as F

KERNEL = np.array([[-0.13, 0.15], [-0.51, 0.62]]).reshape(1, 1, 2, 2)
CONV_OUTPUT = np.array([[0.25, -0.16, 0.27, -0.34], [0.11, 0.31, -0.30, 0.01], [-0.22, 0.61, -0.09, -0.28], [-0.33, 0.48, -0.27, 0.19]])
WEIGHT = np.array([[0.61, 0.82, 0.96, -1.0], [0.02, -0.5, 0.23, 0.17]])
DELTA = np.array([[0.25, -0.15]])
LEARNING_RATE = 0.5
# The activations behind the printed gradients: the example computed on with more digits of the convolution's output than the two it prints.
ACTIVATION = np.array([0.57668996, 0.56591412, 0.64839688, 0.54715940])


def printed(actual, expected):
    """Equal to the last digit of the eight that the example prints."""
    np.testing.assert_allclose(actual, np.array(expected), rtol=0, atol=1.01e-8)


def test_forward(backend):
    output = F.sigmoid(F.max_pool2d(CONV_OUTPUT[None], 2))
    np.testing.assert_allclose(output[0], [[0.5769, 0.5671], [0.6479, 0.5474]], atol=5.1e-5)


def test_forward_and_backward_through_the_network(backend):
    # The image in which each window's maximum has the value whose sigmoid is the activation.
    conv_output = CONV_OUTPUT.copy()[None, None]
    _, indices = F.max_pool2d(conv_output, 2, return_indices=True)
    conv_output.reshape(-1)[indices.reshape(-1)] = np.log(ACTIVATION / (1 - ACTIVATION))

    pooled, indices = F.max_pool2d(conv_output, 2, return_indices=True)
    activation = F.sigmoid(pooled)
    features = activation.reshape(1, 4)
    printed(features[0], ACTIVATION)

    grad_features, grad_weight, grad_bias = F.linear_backward(DELTA, features, WEIGHT)
    printed(grad_features[0], [0.1495, 0.28, 0.2055, -0.2755])
    printed(grad_weight[0], [0.14417249, 0.14147853, 0.16209922, 0.13678985])
    printed(grad_weight[1], [-0.0865035, -0.08488712, -0.09725953, -0.08207391])

    printed((WEIGHT - LEARNING_RATE * grad_weight)[0], [0.53791375, 0.74926073, 0.87895039, -1.06839493])
    # The report prints -.45756444 here, with two digits exchanged: -0.5 + 0.5*0.08488712 = -0.45755644.
    printed((WEIGHT - LEARNING_RATE * grad_weight)[1], [0.06325175, -0.45755644, 0.27862977, 0.21103696])
    printed(-LEARNING_RATE * grad_bias, [-0.125, 0.075])

    grad_pooled = F.sigmoid_backward(grad_features.reshape(activation.shape), pooled, output=activation)
    printed(grad_pooled[0, 0], [[0.03649574, 0.06878349], [0.04684955, -0.06826229]])

    grad_conv = F.max_pool2d_backward(grad_pooled, conv_output, 2, indices=indices)
    image = np.zeros((1, 1, 5, 5))  # its values do not matter to the gradient with respect to it
    grad_image, _, _ = F.conv2d_backward(grad_conv, image, KERNEL, output_mask=(True, False, False))
    printed(grad_image[0, 0, 0], [0, 0, -0.00894185, 0.01031752, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_correlation_and_true_convolution(backend, dtype):
    signal, kernel = np.array([[4, 1, -1, 3]], dtype), np.array([[[-2, 1]]], dtype)
    assert F.conv1d(signal, kernel, padding=1).tolist() == [[4, -7, -3, 5, -6]]
    assert F.conv1d(signal, kernel[:, :, ::-1], padding=1).tolist() == [[-8, 2, 3, -7, 3]]
    np.testing.assert_array_equal(np.convolve(signal[0], kernel[0, 0]), [-8, 2, 3, -7, 3])
