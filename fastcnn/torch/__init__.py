"""fastcnn under PyTorch: an existing model trains faster, by one call.

    import fastcnn.torch

    fastcnn.torch.swap_(model)                  # the model's own training loop goes on, its layers computed by fastcnn
    with fastcnn.torch.use(): ...               # F.conv2d and friends inside, in code that calls them by hand
    fast = fastcnn.torch.from_torch(model)      # the same network as fastcnn layers, for fastcnn.fit and Trainer; to_torch takes it back
    fastcnn.torch.fit(model, data)              # all of that: converts, trains, and leaves the weights in model
    print(fastcnn.torch.explain(model, input))  # measures them, and recommends

Needs PyTorch, which the rest of fastcnn never imports.
"""

from __future__ import annotations

if __name__ == "torch":  # a folder of the package itself stands on sys.path, so `import torch` finds this file
    raise ImportError("`import torch` found fastcnn/torch: the folder `fastcnn` itself is on sys.path; put its parent there, or install the package")
try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError(f'fastcnn.torch needs PyTorch, which cannot be imported here ({error}): pip install "fastcnn[torch]", or see pytorch.org') from error

from fastcnn.torch.back import to_torch
from fastcnn.torch.convert import from_torch
from fastcnn.torch.explain import Explanation, explain
from fastcnn.torch.mirror import NotConvertible
from fastcnn.torch.mode import use
from fastcnn.torch.swap import Report, report, swap_, unswap_
from fastcnn.torch.tensors import off
from fastcnn.torch.threads import share_threads
from fastcnn.torch.training import fit

__all__ = ["Explanation", "NotConvertible", "Report", "explain", "fit", "from_torch", "off", "report", "share_threads", "swap_", "to_torch", "unswap_", "use"]
