"""The data of the digits demo: 1797 real images of 8 x 8 pixels that come inside scikit-learn."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor


@dataclass(frozen=True)
class Digits:
    """Training images x (n, 1, 8, 8) in [-1, 1] with labels y (n,), and those held out."""

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor

    def components(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean (64,) and first principal axes (64, count) of the training images."""
        flat = self.x.flatten(1).double().numpy()
        mean = flat.mean(0)
        return mean, np.linalg.svd(flat - mean, full_matrices=False)[2][:count].T


def load(held_out: float = 0.25, seed: int = 0) -> Digits:
    """Split so that every digit is held out in the same share."""
    images, labels = load_digits(return_X_y=True)
    x, held_x, y, held_y = train_test_split(images / 8 - 1, labels, test_size=held_out, stratify=labels, random_state=seed)
    image = [torch.tensor(v, dtype=torch.float32).view(-1, 1, 8, 8) for v in (x, held_x)]
    return Digits(image[0], torch.tensor(y), image[1], torch.tensor(held_y))
