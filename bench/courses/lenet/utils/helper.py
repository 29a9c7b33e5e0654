"""ReLU, and SGD with momentum."""

import numpy as np


def ReLU(x):
    return np.where(x > 0, x, 0)


def d_ReLU(x, d_global):
    return (x > 0) * d_global


def update(W, b, dW, db, v_W, v_b, learning_rate, momentum=0.9):
    v_W, v_b = momentum * v_W - learning_rate * dW, momentum * v_b - learning_rate * db
    return W + v_W, b + v_b, v_W, v_b
