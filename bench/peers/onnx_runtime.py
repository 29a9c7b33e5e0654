"""ONNX Runtime on the CPU: single convolutions forward, and the recipes' networks in evaluation mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.peers.library import Library, Operands
from bench.problems import Problem
from bench.timing import Contender
from fastcnn import nn

if TYPE_CHECKING:
    from fastcnn import recipes

OPSET, IR = 17, 10
"""Versions of the operators and of the file format that both packages have had for years."""


@dataclass(frozen=True)
class OnnxRuntime(Library):
    name = "onnxruntime"
    threads = 0  # of its own choice, until start() tells

    def start(self, threads: int) -> dict[str, str]:
        import onnx
        import onnxruntime

        type(self).threads = threads  # of every session in this process
        return {"ONNX Runtime": f"{onnxruntime.__version__}, graphs made with onnx {onnx.__version__}"}

    def contender(self, problem: Problem, op: str, operands: Operands) -> Contender | None:
        if op != "forward":
            return None
        (sh, sw), (ph, pw) = problem.stride, problem.padding
        options = {"strides": [sh, sw], "pads": [ph, pw, ph, pw], "dilations": list(problem.dilation), "group": problem.groups}
        return self._session([("Conv", [operands.weight], options)], operands.input)

    def inference(self, model: nn.Module, recipe: recipes.Recipe, x: np.ndarray) -> Contender | None:
        return self._session([node for layer in _flat(model) for node in _nodes(layer)], x)

    def _session(self, nodes: list[tuple[str, list[np.ndarray], dict[str, Any]]], x: np.ndarray) -> Contender:
        """A chain of (operator, constants, attributes), run on x."""
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        made, constants, value = [], [], "x"
        for index, (operator, arrays, attributes) in enumerate(nodes):
            names = [f"c{index}_{number}" for number in range(len(arrays))]
            constants += [numpy_helper.from_array(np.ascontiguousarray(array), name) for array, name in zip(arrays, names, strict=True)]
            made.append(helper.make_node(operator, [value, *names], [f"y{index}"], **attributes))
            value = f"y{index}"
        kind = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[str(x.dtype)]
        inputs, outputs = helper.make_tensor_value_info("x", kind, x.shape), helper.make_tensor_value_info(value, kind, None)
        graph = helper.make_graph(made, "bench", [inputs], [outputs], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

        def call() -> np.ndarray:
            return session.run(None, {"x": x})[0]

        return Contender(self.name, call)


def _flat(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.Sequential):
        return [layer for child in module.children() for layer in _flat(child)]
    return [module]


def _nodes(layer: nn.Module) -> list[tuple[str, list[np.ndarray], dict[str, Any]]]:
    """What ONNX calls a layer of the recipes' networks in evaluation mode."""
    kind = type(layer).__name__
    if kind == "Conv2d":
        (sh, sw), (ph, pw) = _both(layer.stride), _both(layer.padding)
        options = {"strides": [sh, sw], "pads": [ph, pw, ph, pw], "dilations": list(_both(layer.dilation)), "group": layer.groups}
        return [("Conv", [layer.weight.data, *([layer.bias.data] if layer.bias is not None else [])], options)]
    if kind == "BatchNorm2d":
        return [("BatchNormalization", [layer.weight.data, layer.bias.data, layer.running_mean, layer.running_var], {"epsilon": layer.eps})]
    if kind in ("MaxPool2d", "AvgPool2d"):
        (sh, sw), (ph, pw) = _both(layer.stride), _both(layer.padding)
        options = {"kernel_shape": list(_both(layer.kernel_size)), "strides": [sh, sw], "pads": [ph, pw, ph, pw], "ceil_mode": int(layer.ceil_mode)}
        return [("MaxPool", [], options)] if kind == "MaxPool2d" else [("AveragePool", [], options | {"count_include_pad": int(layer.count_include_pad)})]
    if kind == "AdaptiveAvgPool2d" and _both(layer.output_size) == (1, 1):
        return [("GlobalAveragePool", [], {})]
    if kind == "Linear":
        return [("Gemm", [layer.weight.data, *([layer.bias.data] if layer.bias is not None else [])], {"transB": 1})]
    if kind == "LeakyReLU":
        return [("LeakyRelu", [], {"alpha": layer.negative_slope})]
    if kind in ("Dropout", "Identity"):
        return []
    simple = {"ReLU": "Relu", "Sigmoid": "Sigmoid", "Tanh": "Tanh", "Flatten": "Flatten"}
    if kind not in simple:
        raise TypeError(f"the bench has no ONNX operator for {layer}")
    return [(simple[kind], [], {})]


def _both(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
