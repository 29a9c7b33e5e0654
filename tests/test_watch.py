"""watching and layer_outputs: what passes between layers, seen without changing anything."""

import numpy as np

from fastcnn import nn
from fastcnn.watch import layer_outputs, watching


def model():
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, rng=0), nn.Residual(nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())), nn.Flatten(), nn.Dropout(0.5))


def test_layers_come_in_the_order_of_computation_and_the_last_is_the_answer(backend):
    network, x = model(), np.random.default_rng(0).normal(size=(2, 1, 4, 4)).astype(np.float32)
    network[0].eval()
    layers = layer_outputs(network, x)
    places = ["0 Conv2d", "1.body.0 BatchNorm2d", "1.body.1 ReLU", "2 Flatten", "3 Dropout"]
    assert [f"{layer.path} {layer.kind}" for layer in layers] == places
    np.testing.assert_array_equal(layers[0].output, network[0](x))
    assert network.training and not network[0].training and "forward" not in vars(network[0])
    np.testing.assert_array_equal(layers[-1].output, network.eval()(x))
    assert [(layer.path, layer.kind) for layer in layer_outputs(nn.ReLU(), x)] == [("", "ReLU")]


def test_nothing_stays_when_a_layer_raises():
    network, seen = model(), []
    try:
        with watching(network, "forward", lambda path, module, output: seen.append(path)):
            network(np.zeros((1, 3, 4, 4), np.float32))
    except ValueError:
        pass
    assert seen == [] and not any("forward" in vars(module) for module in network.modules())
