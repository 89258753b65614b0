"""A small residual network for points."""

import torch
from torch import Tensor, nn

from scoresde.sde import Described
from scoresde.sde.checks import check_choice
from scoresde.sde.score import Condition

from .checks import check_classes, check_told
from .embedding import FourierEmbedding, SinusoidalEmbedding
from .labels import LabelEmbedding, Labelled


class MLP(Described, Labelled, nn.Module):
    """A residual multilayer perceptron with the noise level as an input of every layer.

        h ← h + W₂ φ(W₁ φ(h) + V e(c_noise)),   φ = SiLU

    Args:
        shape: Shape of one state; its coordinates are flattened.
        width: Width of the hidden layers.
        depth: Number of residual layers ≥ 1.
        embedding_type: `positional` (c_noise such as 999 t) or `fourier` (such as log σ).
        fourier_scale: Standard deviation of the frequencies of `fourier`.
        classes: Number K ≥ 1 of classes, whose embedding is added to that of the noise; None for
            none. The label K stands for no class.

    Raises:
        ValueError: Unknown embedding, or a width < 2 or depth < 1.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int = 128,
        depth: int = 3,
        embedding_type: str = "positional",
        fourier_scale: float = 1.0,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        check_classes(classes)
        if width < 2 or depth < 1:
            raise ValueError(f"need width ≥ 2 and depth ≥ 1, got {width} and {depth}")
        check_choice("embedding_type", embedding_type, "positional", "fourier")
        if embedding_type == "fourier":
            embedding: nn.Module = FourierEmbedding(width // 2, fourier_scale)
        else:
            embedding = SinusoidalEmbedding(width // 2 * 2)
        self.shape, self.classes = tuple(shape), classes
        dim = int(torch.Size(self.shape).numel())
        self.embedding = embedding
        self.condition = nn.Sequential(
            nn.Linear(width // 2 * 2, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.label = None if classes is None else LabelEmbedding(classes, width)
        self.enter = nn.Linear(dim, width)
        self.layers = nn.ModuleList(ResidualLayer(width) for _ in range(depth))
        self.leave = nn.Linear(width, dim)
        # Starting at zero output makes the first loss that of the trivial prediction.
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, c_noise: Tensor, condition: Condition | None = None) -> Tensor:
        """Raw output, shape of x.

        Args:
            x: Points, shape (B, *).
            c_noise: Noise level, shape (B,); see `ScoreModel`.
            condition: Class labels in 0 … K, int64, shape (B,); None for no label.

        Raises:
            ValueError: x is not of the network's shape.
        """
        if tuple(x.shape[1:]) != self.shape:
            expected = ", ".join(("N", *map(str, self.shape)))
            raise ValueError(f"expected ({expected}) for this model, got {tuple(x.shape)}")
        emb = self.condition(self.embedding(c_noise).to(x.dtype))
        if condition is not None:
            emb = emb + check_told(self.label, condition)(condition)
        h = self.enter(x.flatten(1))
        for layer in self.layers:
            h = layer(h, emb)
        return self.leave(nn.functional.silu(h)).reshape(x.shape)


class ResidualLayer(nn.Module):
    """One layer of `MLP`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.condition = nn.Linear(width, width)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        inner = self.first(nn.functional.silu(h)) + self.condition(condition)
        return h + self.second(nn.functional.silu(inner))
