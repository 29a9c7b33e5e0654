"""The libraries of a comparison, one file each, and the names by which `--peers` asks for them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from bench.peers.coursework import Coursework
from bench.peers.jax_cpu import Jax
from bench.peers.library import BACKWARD, FORMATS, OPS, Library, Operands, Unusable
from bench.peers.onnx_runtime import OnnxRuntime
from bench.peers.ours import Fastcnn, compiled
from bench.peers.pytorch import Torch
from fastcnn import backend as backends

__all__ = ["BACKWARD", "FORMATS", "OPS", "Coursework", "Fastcnn", "Jax", "Library", "OnnxRuntime", "Operands", "Torch", "Unusable"]
__all__ += ["check_backend", "chosen", "compiled", "is_rival", "libraries", "missing"]

PEERS: dict[str, tuple[list[Library], tuple[str, ...]]] = {
    "reference": ([Fastcnn("reference")], ()),
    "im2col": ([Coursework("im2col")], ()),
    "loops": ([Coursework("loops")], ()),
    "torch": ([Torch(layout) for layout in FORMATS], ("torch",)),
    "compile": ([Torch("channels_last", compiled=True)], ("torch",)),
    "onnxruntime": ([OnnxRuntime()], ("onnxruntime", "onnx")),
    "jax": ([Jax()], ("jax",)),
}
"""What a word of `--peers` stands for, and the modules that it takes."""

AUTO = ("reference", "torch")
VARIANT_OPTIONS = ("isa", "algorithm", "threads")


def libraries(backend: str, peers: list[str], memory_format: str = "nchw") -> list[Library]:
    """Who is measured: ours first, in its memory format, then the peers and variants of ours."""
    ours = Fastcnn(backend, memory_format)
    others = [library for peer in peers for library in (PEERS[peer][0] if peer in PEERS else [_variant(peer, memory_format)])]
    return [ours, *(library for library in others if library.name != backend)]


def chosen(choice: str) -> list[str]:
    """The peers that `--peers` names: auto is the reference and PyTorch if it is installed, all is all that is installed, none is none; else a
    list like torch,im2col,cpu:isa=avx2."""
    if choice == "none":
        return []
    if choice in ("auto", "all"):
        return [peer for peer in (AUTO if choice == "auto" else PEERS) if not missing(peer)]
    peers = choice.split(",")
    for peer in peers:
        if ":" in peer:
            _variant(peer, "nchw")
        elif peer not in PEERS:
            known = f"{', '.join(PEERS)}, and variants like cpu:isa=avx2, cpu:algorithm=direct, cpu:threads=1"
            raise Unusable(f"no peer is called {peer!r}: choose auto, all, none, or a list of {known}")
        elif missing(peer):
            raise Unusable(f"the peer {peer} is not installed: it takes {' and '.join(missing(peer))}")
    return peers


def missing(peer: str) -> list[str]:
    """The modules that a peer takes and that are not installed."""
    return [module for module in PEERS[peer][1] if importlib.util.find_spec(module) is None]


def is_rival(name: str, backend: str) -> bool:
    """Is a library of this name one to beat: neither ours, nor a variant of it, nor a yardstick?"""
    yardsticks = {library.name for found, _ in PEERS.values() for library in found if library.yardstick}
    return name.split()[0] != backend and name not in yardsticks


def _variant(word: str, memory_format: str) -> Fastcnn:
    """cpu:isa=avx2:threads=1 as a library."""
    backend, *pairs = word.split(":")
    check_backend(backend)
    options: dict[str, str | int] = {}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        if not equals or option not in VARIANT_OPTIONS or (option == "threads" and not (value.isdigit() and int(value) > 0)):
            raise Unusable(f"the variant {word!r} is not understood at {pair!r}: options are {', '.join(VARIANT_OPTIONS)}, as in cpu:isa=avx2:threads=1")
        options[option] = int(value) if option == "threads" else value
    if "algorithm" in options and options["algorithm"] not in backends.ALGORITHMS:
        raise Unusable(f"the variant {word!r}: algorithm is one of {', '.join(backends.ALGORITHMS)}")
    return replace(Fastcnn(backend, memory_format), **options)


def check_backend(name: str) -> None:
    """Unusable, with the reason, if this backend of ours cannot run here."""
    reasons = backends.available()
    if name not in reasons:
        raise Unusable(f"no backend is called {name!r}: choose one of {', '.join(reasons)}")
    if reasons[name] is not None:
        raise Unusable(f"the backend {name} cannot be used: {reasons[name]}")
