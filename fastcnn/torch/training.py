"""fit: a PyTorch module trained by fastcnn, data and all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fastcnn import nn
from fastcnn.torch.back import write_into
from fastcnn.torch.convert import Converter, from_torch, optimizer_from_torch
from fastcnn.torch.tensors import array
from fastcnn.torch.threads import follow
from fastcnn.train import History
from fastcnn.train import fit as fit_fastcnn
from fastcnn.train.data import PairBatches


def fit(
    module: torch.nn.Module,
    train: Any,
    val: Any = None,
    *,
    loss: torch.nn.Module | nn.Module | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    batch_size: int = 64,
    **options: Any,
) -> History:
    """Train module on fastcnn, and leave the weights and statistics in it, also when training is interrupted; returns the history.

    module      on the CPU, of a kind that from_torch takes
    train, val  a DataLoader; or a Dataset or an (x, y) pair of tensors or arrays, of which batches of batch_size are made; or what fastcnn.fit takes
    loss        a loss of torch.nn; CrossEntropyLoss() by default
    optimizer   of torch.optim over module.parameters(), with no steps made: its kind and options are used, it makes no step itself. Adam by default
    options     those of fastcnn.fit: epochs, metrics, seed, callbacks, out, ...
    Raises      NotConvertible, before anything is trained
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"fit: module must be a torch.nn.Module, got {type(module).__name__}")
    if not (loss is None or isinstance(loss, (torch.nn.Module, nn.Module))):
        raise TypeError(f"fit: loss must be a loss of torch.nn or fastcnn.nn, got {type(loss).__name__}")
    device = next((value.device.type for value in module.parameters() if not value.is_cpu), None)
    if device is not None:
        raise ValueError(f"fit: module is on the device {device}, but fastcnn trains on the CPU: module.cpu() first")
    converter = Converter(share=False)
    model = converter.convert(module, "")
    own_loss = nn.CrossEntropyLoss() if loss is None else loss if isinstance(loss, nn.Module) else from_torch(loss)
    own_optimizer = None if optimizer is None else optimizer_from_torch(optimizer, list(model.parameters()), converter.sources)
    follow()
    modes = [(part, part.training) for part in model.modules()]
    seed = options.get("seed", 0)
    batches = _batches(train, batch_size, True, seed)
    measured = None if val is None else _batches(val, batch_size, False, seed)
    if isinstance(batches, LoaderBatches):
        options.setdefault("prefetch", 0)  # a loader has workers of its own
    try:
        return fit_fastcnn(model, batches, measured, loss=own_loss, optimizer=own_optimizer, batch_size=batch_size, **options)
    finally:
        for part, training in modes:
            part.training = training
        write_into(module, model)


class LoaderBatches(PairBatches):
    """A DataLoader as fit takes batches: its own order, its own workers; tensors as arrays."""

    def __init__(self, loader: DataLoader, seed: int) -> None:
        if loader.batch_size is None:
            raise ValueError("fit: the DataLoader has no batch_size: it gives single samples")
        self.loader = loader
        self.dataset, self.batch_size, self.seed, self.epoch = loader.dataset, loader.batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.loader)

    def _of_epoch(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if hasattr(self.loader.sampler, "set_epoch"):
            self.loader.sampler.set_epoch(epoch)
        for batch in self.loader:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise TypeError(f"fit: the DataLoader must give (x, y) pairs, got {type(batch).__name__} of {len(batch)}")
            yield _array(batch[0]), _array(batch[1])


def _array(value: Any) -> np.ndarray:
    return array(value) if isinstance(value, torch.Tensor) else np.asarray(value)


def _batches(data: Any, batch_size: int, shuffle: bool, seed: int) -> Any:
    """What fastcnn.fit takes, without copies where it can be."""
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        data = data.tensors
    if isinstance(data, Dataset):
        generator = torch.Generator().manual_seed(seed)
        data = DataLoader(data, batch_size, shuffle=shuffle, generator=generator)
    if isinstance(data, DataLoader):
        return LoaderBatches(data, seed)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        return _array(data[0]), _array(data[1])
    return data
