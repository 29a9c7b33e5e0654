"""The layer table that the nn tests share.

LAYERS: class name, constructor arguments, which are torch's, and an input shape. test_nn_layers.py checks properties of each case,
test_state_dict_torch.py compares it with torch.
"""

import numpy as np

from fastcnn import nn

LAYERS = {
    "conv1d": ("Conv1d", (3, 4, 3), {}, (2, 3, 9)),
    "conv1d_options": ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 2, "dilation": 2, "groups": 2, "bias": False}, (2, 4, 9)),
    "conv1d_same": ("Conv1d", (2, 3, 4), {"padding": "same", "padding_mode": "circular"}, (2, 2, 9)),
    "conv2d": ("Conv2d", (3, 4, 3), {}, (2, 3, 6, 5)),
    "conv2d_options": (
        "Conv2d",
        (4, 6, (3, 2)),
        {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2, "bias": False},
        (2, 4, 7, 6),
    ),
    "conv2d_same": ("Conv2d", (2, 3, (4, 3)), {"padding": "same"}, (2, 2, 6, 5)),
    "conv2d_valid": ("Conv2d", (2, 3, 3), {"padding": "valid", "padding_mode": "reflect"}, (2, 2, 6, 5)),
    "conv2d_reflect": ("Conv2d", (2, 3, 3), {"padding": (1, 2), "padding_mode": "reflect"}, (2, 2, 6, 5)),
    "conv2d_replicate": ("Conv2d", (2, 3, (2, 4)), {"padding": "same", "padding_mode": "replicate"}, (2, 2, 6, 5)),
    "conv2d_circular": ("Conv2d", (2, 3, 3), {"padding": 1, "stride": 2, "padding_mode": "circular"}, (2, 2, 6, 5)),
    "conv2d_depthwise": ("Conv2d", (3, 6, 3), {"groups": 3, "padding": 1}, (2, 3, 5, 5)),
    "conv_transpose2d": ("ConvTranspose2d", (3, 4, 3), {}, (2, 3, 5, 4)),
    "conv_transpose2d_options": (
        "ConvTranspose2d",
        (4, 6, (3, 2), (2, 3), (1, 0), (1, 2), 2, False, (2, 1)),
        {},
        (2, 4, 5, 4),
    ),
    "linear": ("Linear", (6, 4), {}, (3, 6)),
    "linear_no_bias": ("Linear", (6, 4, False), {}, (3, 6)),
    "linear_3d": ("Linear", (6, 4), {}, (2, 5, 6)),
    "max_pool2d": ("MaxPool2d", (2,), {}, (2, 3, 6, 5)),
    "max_pool2d_options": ("MaxPool2d", ((3, 2), 2, 1, 1), {"ceil_mode": True}, (2, 3, 6, 6)),
    "max_pool2d_dilated": ("MaxPool2d", (2, 1), {"dilation": 2}, (2, 3, 6, 6)),
    "avg_pool2d": ("AvgPool2d", (2,), {}, (2, 3, 6, 5)),
    "avg_pool2d_options": ("AvgPool2d", (3, 2, 1, True, False), {}, (2, 3, 6, 5)),
    "avg_pool2d_divisor": ("AvgPool2d", ((2, 3),), {"divisor_override": 5}, (2, 3, 6, 6)),
    "adaptive_avg_pool2d": ("AdaptiveAvgPool2d", (1,), {}, (2, 3, 6, 5)),
    "adaptive_avg_pool2d_uneven": ("AdaptiveAvgPool2d", ((4, None),), {}, (2, 3, 6, 5)),
    "adaptive_max_pool2d": ("AdaptiveMaxPool2d", ((4, 3),), {}, (2, 3, 6, 5)),
    "batch_norm1d": ("BatchNorm1d", (4,), {}, (5, 4)),
    "batch_norm1d_3d": ("BatchNorm1d", (4,), {"momentum": 0.3}, (3, 4, 5)),
    "batch_norm2d": ("BatchNorm2d", (3,), {}, (2, 3, 4, 5)),
    "batch_norm2d_plain": ("BatchNorm2d", (3, 1e-2, None, False), {}, (2, 3, 4, 5)),
    "batch_norm2d_untracked": ("BatchNorm2d", (3,), {"track_running_stats": False}, (2, 3, 4, 5)),
    "layer_norm": ("LayerNorm", (6,), {}, (2, 5, 6)),
    "layer_norm_3d": ("LayerNorm", ((3, 4, 5),), {"bias": False, "eps": 1e-2}, (2, 3, 4, 5)),
    "layer_norm_plain": ("LayerNorm", ((4, 5),), {"elementwise_affine": False}, (2, 3, 4, 5)),
    "group_norm": ("GroupNorm", (2, 6), {}, (2, 6, 3, 4)),
    "group_norm_plain": ("GroupNorm", (3, 6), {"affine": False}, (2, 6, 5)),
    "relu": ("ReLU", (), {}, (2, 3, 4)),
    "relu_inplace": ("ReLU", (True,), {}, (2, 3, 4, 2)),
    "leaky_relu": ("LeakyReLU", (0.1,), {}, (2, 3, 4, 2)),
    "prelu": ("PReLU", (), {}, (2, 3, 4, 2)),
    "prelu_channels": ("PReLU", (3, 0.1), {}, (2, 3, 4, 2)),
    "elu": ("ELU", (0.7,), {}, (2, 3, 4)),
    "selu": ("SELU", (), {}, (2, 3, 4)),
    "gelu": ("GELU", (), {}, (2, 3, 4)),
    "gelu_tanh": ("GELU", ("tanh",), {}, (2, 3, 4)),
    "silu": ("SiLU", (), {}, (2, 3, 4)),
    "softplus": ("Softplus", (), {}, (2, 3, 4)),
    "softplus_options": ("Softplus", (2.0, 1.0), {}, (2, 3, 4)),
    "sigmoid": ("Sigmoid", (), {}, (2, 3, 4)),
    "tanh": ("Tanh", (), {}, (2, 3, 4)),
    "softmax": ("Softmax", (1,), {}, (2, 3, 4)),
    "log_softmax": ("LogSoftmax", (-1,), {}, (2, 3, 4)),
    "identity": ("Identity", (54, "unused"), {"arguments": 0}, (2, 3, 4)),
    "flatten": ("Flatten", (), {}, (2, 3, 4, 2)),
    "flatten_middle": ("Flatten", (1, 2), {}, (2, 3, 4, 2)),
    "unflatten": ("Unflatten", (1, (2, -1)), {}, (2, 6, 4)),
    "upsample_nearest": ("Upsample", (), {"scale_factor": 2}, (2, 3, 4, 3)),
    "upsample_factors": ("Upsample", (), {"scale_factor": (1.5, 2.5), "mode": "bilinear"}, (2, 3, 4, 3)),
    "upsample_corners": ("Upsample", ((7, 5),), {"mode": "bilinear", "align_corners": True}, (2, 3, 4, 3)),
}
ARRAY_LAYERS = [name for name in LAYERS if name not in ("identity", "flatten", "flatten_middle", "unflatten")]
PARAMETRISED = [name for name, (kind, args, options, _) in LAYERS.items() if any(getattr(nn, kind)(*args, **options).parameters())]


def build(name, dtype=np.float64, seed=0):
    """(layer of the case with its parameters drawn, not at ones and zeros; input)."""
    kind, args, options, shape = LAYERS[name]
    rng = np.random.default_rng(seed)
    layer = getattr(nn, kind)(*args, **options).to(dtype)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.2, 1.0, rng)
    return layer, rng.normal(size=shape).astype(dtype)
