"""What the recipes for handwritten digits share: how digits come into a square frame."""

from __future__ import annotations

import numpy as np

from fastcnn import datasets
from fastcnn.recipes.base import Recipe

MNIST_SIDE, MNIST_BOX = 28, 20


class DigitsRecipe(Recipe):
    """Input 1 x side x side. MNIST's and Fashion-MNIST's 28x28 are padded to it. The package's own 8x8 digits fill their frame as MNIST's digits
    fill a 20x20 box, so they are resized to 20x20 (bilinear) and then padded."""

    dark_ground = True

    def prepare(self, images: np.ndarray) -> np.ndarray:
        (H, W), side = images.shape[-2:], self.input_shape[-1]
        if (H, W) == (8, 8):
            images = datasets.resize(images, MNIST_BOX)
        elif max(H, W) > side:
            raise ValueError(f"{self.name}: images must be at most {side}x{side}, got {H}x{W}")
        return datasets.pad_to(images, side)

    def picture(self, pixels: np.ndarray, data: str) -> np.ndarray:
        """28x28 and side x side are taken to be prepared; of other sizes the drawn part is fitted into the 20x20 box (a garment: into 28x28)."""
        side = self.input_shape[-1]
        if pixels.shape[-2:] in ((MNIST_SIDE, MNIST_SIDE), (side, side)):
            return self.prepare(pixels[None])[0]
        from fastcnn.recipes.pictures import fit_drawing, shrink

        return datasets.pad_to(shrink(pixels, (MNIST_SIDE, MNIST_SIDE)) if data == "fashion-mnist" else fit_drawing(pixels, MNIST_BOX), side)
