"""SOFT: a Gaussian kernel in the place of softmax's, approximated through few landmarks (Nystrom), with an inverse by Newton.

Lu et al., "SOFT: Softmax-free Transformer with Linear Complexity", NeurIPS 2021, arXiv 2110.11945; SOFT++, 2207.03341, divides
the inverse by the landmarks' degrees on both sides. No drop-in: keys are the queries, so a trained key projection has no place,
landmarks come from a convolution over the grid of patches, and another one over the values is added to the result.
"""

import math

import torch
from torch import nn

from ..ops.autocast import without_autocast


ITERATIONS = 20


def soft_attention(
    query: torch.Tensor,
    value: torch.Tensor,
    landmarks: torch.Tensor,
    *,
    normalize: bool = False,
    iterations: int = ITERATIONS,
) -> torch.Tensor:
    """`out = k(q, m) k(m, m)^-1 k(m, q) v` with `k(a, b) = exp(-|a - b|^2 / 2)`. No softmax; one exp for each pair. `N M D`.

    Args:
        query: `(B,H,N,D)`, divided by `D^1/4` already; the keys too.
        value: `(B,H,N,Dv)`.
        landmarks: m, `(B,H,M,D)`.
        normalize: SOFT++: the inverse between the square roots of the landmarks' degrees.
        iterations: of Newton's method.

    Returns:
        `(B,H,N,Dv)` in the dtype of `query`; half precision is computed in float32.
    """
    dtype = query.dtype
    wide = torch.promote_types(dtype, torch.float32)
    with without_autocast(query.device.type):
        query, value, landmarks = query.to(wide), value.to(wide), landmarks.to(wide)
        near, among = _gaussian(query, landmarks), _gaussian(landmarks, landmarks)  # (B,H,N,M), (B,H,M,M)
        inverse = newton_inverse(among, iterations)
        if normalize:
            root = among.sum(dim=-1, keepdim=True).rsqrt()
            inverse = root * inverse * root.transpose(-2, -1)
        return (near @ (inverse @ (near.transpose(-2, -1) @ value))).to(dtype)


def _gaussian(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`exp(-|x - y|^2 / 2)` of all pairs, `(B,H,N,M)`."""
    squares = x.square().sum(dim=-1, keepdim=True) + y.square().sum(dim=-1).unsqueeze(-2)
    return torch.exp(x @ y.transpose(-2, -1) - squares / 2)


def newton_inverse(matrix: torch.Tensor, iterations: int = ITERATIONS) -> torch.Tensor:
    """`X <- 2 X - X A X` from `A / r^2`, r the largest sum of a row: inverse of `(...,M,M)`, symmetric and positive definite.

    Eigenvalues far below r are not inverted within so few iterations, but damped, which keeps the result finite. The gradient goes
    through the last step alone: `-X dA X`, that of the inverse.
    """
    with torch.no_grad():
        inverse = matrix / matrix.sum(dim=-1).amax(dim=-1)[..., None, None] ** 2
        for _ in range(iterations - 1):
            inverse = 2 * inverse - inverse @ matrix @ inverse
    return 2 * inverse - inverse @ matrix @ inverse


class SoftAttention(nn.Module):
    """A SOFT attention layer, `(B,N,C)` to `(B,N,C)`, which can stand where Transformers' `ViTAttention` does.

    Args:
        hidden_size: C.
        num_attention_heads: H, which divides C.
        ratio: pixels of the grid, each way, that become one landmark.
        conv_size: odd side of the convolution over the values; 0 for none.
        prefix_tokens: tokens before the grid, such as the class token: queries and values, but no landmarks.
        normalize: SOFT++.
        iterations: of Newton's method.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        *,
        ratio: int = 2,
        conv_size: int = 3,
        prefix_tokens: int = 1,
        normalize: bool = False,
        iterations: int = ITERATIONS,
    ):
        super().__init__()
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"`num_attention_heads` must divide `hidden_size`, got {num_attention_heads} and {hidden_size}."
            )
        channels = hidden_size // num_attention_heads
        self.heads, self.prefix_tokens = num_attention_heads, prefix_tokens
        self.normalize, self.iterations = normalize, iterations
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.o_proj = nn.Linear(hidden_size, hidden_size)
        self.landmarks = nn.Conv2d(channels, channels, ratio, ratio, bias=False)
        self.landmark_norm = nn.LayerNorm(channels)
        self.local = None
        if conv_size:
            heads = num_attention_heads
            self.local = nn.Conv2d(heads, heads, conv_size, padding=conv_size // 2, groups=heads, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        grid: tuple[int, int] | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, None]:
        """Attend among the tokens of each image.

        Args:
            hidden_states: `(B,N,C)`, N prefix tokens and the patches row by row.
            attention_mask: None; landmarks need the whole grid.
            grid: rows and columns of patches; by default a square.
            kwargs: what else Transformers passes, without meaning here.

        Raises:
            ValueError: there is a mask, or the patches do not fill the grid.
        """
        if attention_mask is not None:
            raise ValueError("`attention_mask` must be None for SoftAttention, whose landmarks need the whole grid.")
        patches = hidden_states.shape[1] - self.prefix_tokens
        rows, columns = grid or (math.isqrt(patches),) * 2
        if rows * columns != patches:
            raise ValueError(
                f"`grid` must have as many places as there are patches, {patches}, got {rows} x {columns}."
            )
        query, value = (
            project(hidden_states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.v_proj)
        )
        output = self.attend(query, value, rows, columns)
        return self.o_proj(output.transpose(1, 2).flatten(2)), None

    def attend(self, query: torch.Tensor, value: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """`(B,H,N,D)` from query and value of that shape: all that lies between the projections."""
        query = query * query.shape[-1] ** -0.25
        maps = query[:, :, self.prefix_tokens :].flatten(0, 1).transpose(1, 2).unflatten(2, (rows, columns))
        landmarks = self.landmarks(maps).flatten(2).transpose(1, 2).unflatten(0, (-1, self.heads))  # (B,H,M,D)
        landmarks = nn.functional.gelu(self.landmark_norm(landmarks))
        output = soft_attention(query, value, landmarks, normalize=self.normalize, iterations=self.iterations)
        return output if self.local is None else output + self._nearby(value, rows, columns)

    def _nearby(self, value: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
        """`(B,H,N,D)`: every head's convolution over the grid, the same for all of its channels; zeros for the prefix."""
        batch, _, _, channels = value.shape
        patches = value[:, :, self.prefix_tokens :].permute(0, 3, 1, 2).flatten(0, 1).unflatten(2, (rows, columns))
        near = self.local(patches).flatten(2).unflatten(0, (batch, channels)).permute(0, 2, 3, 1)
        return nn.functional.pad(near, (0, 0, self.prefix_tokens, 0))


def soft_reference(query, value, landmarks, normalize=False) -> torch.Tensor:
    """The formula pair by pair with an exact inverse, on inputs as `soft_attention` takes them; for float64."""
    near = torch.exp(-(query[:, :, :, None] - landmarks[:, :, None]).square().sum(-1) / 2)
    among = torch.exp(-(landmarks[:, :, :, None] - landmarks[:, :, None]).square().sum(-1) / 2)
    inverse = torch.linalg.inv(among)
    if normalize:
        degrees = torch.diag_embed(among.sum(-1) ** -0.5)
        inverse = degrees @ inverse @ degrees
    return near @ inverse @ near.transpose(-2, -1) @ value
