"""The digits demo's data (1797 real images of 8 x 8 pixels, inside scikit-learn) and its two yardsticks."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor


@dataclass(frozen=True)
class Digits:
    """Training images x (n, 1, 8, 8) in [-1, 1] with labels y (n,), and those held out."""

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor


def load(held_out: float = 0.25, seed: int = 0) -> Digits:
    """Split so that the same share of every digit is held out."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images / 8 - 1, dtype=torch.float32).view(-1, 1, 8, 8)
    y = torch.tensor(labels)
    mine, held = train_test_split(np.arange(len(x)), test_size=held_out, stratify=labels, random_state=seed)
    return Digits(x[mine], y[mine], x[held], y[held])


class Yardstick:
    """Squared Frechet distance to the held-out digits, between Gaussians fitted in the first principal
    components of the training digits."""

    def __init__(self, data: Digits, components: int = 20):
        flat = data.x.flatten(1).double().numpy()
        self.components, self.mean = components, flat.mean(0)
        self.axes = np.linalg.svd(flat - self.mean, full_matrices=False)[2][:components].T
        self.target, self.covariance = self._fit(data.held_x)
        w, v = np.linalg.eigh(self.covariance)
        self.root = v * np.sqrt(w.clip(0)) @ v.T

    def _fit(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        points = (x.flatten(1).double().numpy() - self.mean) @ self.axes
        return points.mean(0), np.cov(points.T)

    def __call__(self, x: Tensor) -> float:
        mean, covariance = self._fit(x)
        cross = np.sqrt(np.linalg.eigvalsh(self.root @ covariance @ self.root).clip(0)).sum()
        spread = np.trace(covariance) + np.trace(self.covariance) - 2 * cross
        return float(((mean - self.target) ** 2).sum() + spread)


def reading(x: Tensor, data: Digits) -> float:
    """Share of held-out digits read right by a classifier trained on x under the training digits' labels."""
    model = make_pipeline(StandardScaler(), SVC(C=10.0)).fit(x.flatten(1).numpy(), data.y.numpy())
    return float(model.score(data.held_x.flatten(1).numpy(), data.held_y.numpy()))
