"""The Swin layer of ResShift's UNet.

It differs from the textbook layer: norms are GroupNorm over the whole map, the MLP is two 1x1
convolutions, nothing is added around the layer, the window and the shift follow the nominal
resolution, and the shifted windows carry an unusual mask (see `shift_mask`).

Source: Yue et al. 2023 (arXiv 2307.12348), "Swin Transformer in the UNet".
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor, nn

from .own_weight import OwnWeight


def relative_position_index(window_size: int) -> Tensor:
    """Return the row of the bias table for each pair of tokens in a window.

    Returns:
        `(N, N)` int64 with N = window_size squared, tokens row-major.
    """
    rows, cols = _token_coordinates(window_size)  # (N,) each
    row_offset = rows[:, None] - rows[None, :] + window_size - 1  # (N, N)
    col_offset = cols[:, None] - cols[None, :] + window_size - 1
    return row_offset * (2 * window_size - 1) + col_offset


def shift_mask(window_size: int, shift: int) -> Tensor:
    """Return the additive mask of the windows of the last window row in a shifted block.

    Released weights were trained with a mask that separates tokens by their local column, in the
    last window row only; every other window is unmasked. The textbook Swin mask gives a different
    picture.

    Returns:
        `(N, N)` float32, 0 where attention is allowed and -100 where it is blocked.
    """
    _, cols = _token_coordinates(window_size)
    wrapped = cols >= window_size - shift  # (N,)
    return -100.0 * (wrapped[:, None] != wrapped[None, :]).float()  # (N, N)


def _token_coordinates(window_size: int) -> tuple[Tensor, Tensor]:
    tokens = torch.arange(window_size * window_size)
    return torch.div(tokens, window_size, rounding_mode="floor"), tokens % window_size


class PositionBias(OwnWeight):
    """The learned bias of each relative position, for each head."""

    def forward(self, heads: Tensor, windows: Tensor) -> Tensor:
        """Return the table with a row for each head, `(heads, positions)`.

        It is a linear layer on one-hot rows whose product is left out, so that adapters that
        ComfyUI puts beside a layer ("bypass") find what they find in other layers.

        Args:
            heads: `(heads, heads)` one-hot rows, read by such adapters alone.
            windows: Decides device and dtype.
        """
        return self.apply_weight(windows, lambda table: table.clone().T)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows with a learned bias per relative position."""

    heads: Tensor
    index: Tensor
    mask: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window_size: int,
        shift: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        operations: Any,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.shift = shift
        self.relative_position_bias_table = PositionBias(
            (2 * window_size - 1) ** 2, num_heads, dtype=dtype, device=device
        )
        self.qkv = operations.Linear(embed_dim, 3 * embed_dim, dtype=dtype, device=device)
        self.proj = operations.Linear(embed_dim, embed_dim, dtype=dtype, device=device)
        self.register_buffer("heads", torch.eye(num_heads), persistent=False)
        # Not persistent: released files carry these tables, converted ones need not.
        self.register_buffer("index", relative_position_index(window_size), persistent=False)
        self.register_buffer("mask", shift_mask(window_size, shift), persistent=False)

    def forward(self, windows: Tensor, transformer_options: dict) -> Tensor:
        """Return `windows` after attention.

        Args:
            windows: `(B, rows, cols, N, E)`, the windows of one map in their places.
            transformer_options: ComfyUI's options; patches of the attention act on it.
        """
        bias = self._position_bias(windows)  # (1, heads, N, N)
        query, key, value = self.qkv(windows).chunk(3, dim=-1)  # (B, rows, cols, N, E) each
        if self.shift == 0:
            attended = self._attend(query, key, value, bias, transformer_options)
        else:
            last_row_bias = bias + self.mask.to(device=bias.device, dtype=bias.dtype)
            last_row = self._attend(
                query[:, -1:], key[:, -1:], value[:, -1:], last_row_bias, transformer_options
            )  # (B, 1, cols, N, E)
            if windows.shape[1] == 1:
                attended = last_row
            else:
                others = self._attend(
                    query[:, :-1], key[:, :-1], value[:, :-1], bias, transformer_options
                )  # (B, rows - 1, cols, N, E)
                attended = torch.cat([others, last_row], dim=1)
        return self.proj(attended)

    def _position_bias(self, windows: Tensor) -> Tensor:
        heads, index = self.heads.to(windows.device), self.index.to(windows.device)
        if torch.is_grad_enabled():  # a gradient keeps no tensor that was moved in inference mode
            heads, index = heads.clone(), index.clone()
        table = self.relative_position_bias_table(heads, windows)  # (heads, positions)
        bias = F.embedding(index, table.T).to(windows.dtype)  # (N, N, heads)
        return bias.permute(2, 0, 1).unsqueeze(0).contiguous()

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, transformer_options: dict
    ) -> Tensor:
        b, rows, cols, tokens, channels = query.shape
        flat = (b * rows * cols, tokens, channels)
        # Windows of 64 tokens gain nothing from ComfyUI's other kernels: flash and sage lose
        # precision, and its choice for a CPU is four times slower. Patches still act on this one.
        attended = attention_pytorch(
            query.reshape(flat),
            key.reshape(flat),
            value.reshape(flat),
            self.num_heads,
            mask=bias,
            transformer_options=transformer_options,
        )  # (B rows cols, N, E)
        return attended.view(b, rows, cols, tokens, channels)


class Mlp(nn.Module):
    """Two 1x1 convolutions with an exact GELU between them."""

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        operations: Any,
    ):
        super().__init__()
        self.fc1 = operations.Conv2d(embed_dim, hidden_dim, 1, dtype=dtype, device=device)
        self.fc2 = operations.Conv2d(hidden_dim, embed_dim, 1, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, E, H, W) after both convolutions, same shape."""
        return self.fc2(F.gelu(self.fc1(x)))  # through (B, hidden, H, W)


class SwinBlock(nn.Module):
    """Window attention and MLP, each after a GroupNorm and added to its input."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window_size: int,
        shift: int,
        mlp_ratio: float,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        operations: Any,
    ):
        super().__init__()
        self.window_size = window_size
        self.shift = shift
        made = {"dtype": dtype, "device": device}
        self.norm1 = operations.GroupNorm(32, embed_dim, **made)
        self.attn = WindowAttention(
            embed_dim, num_heads, window_size, shift, operations=operations, **made
        )
        self.norm2 = operations.GroupNorm(32, embed_dim, **made)
        self.mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio), operations=operations, **made)

    def forward(self, x: Tensor, transformer_options: dict) -> Tensor:
        """Return `x` (B, E, H, W) after the block; H and W are multiples of the window."""
        x = x + self._window_attention(self.norm1(x), transformer_options)
        return x + self.mlp(self.norm2(x))

    def _window_attention(self, x: Tensor, transformer_options: dict) -> Tensor:
        b, channels, h, w = x.shape
        size = self.window_size
        rows, cols = h // size, w // size
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        x = x.permute(0, 2, 3, 1)  # (B, H, W, E)
        if self.shift:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        windows = x.reshape(b, rows, size, cols, size, channels)
        windows = windows.transpose(2, 3).reshape(b, rows, cols, size * size, channels)
        windows = self.attn(windows, transformer_options)  # (B, rows, cols, N, E)
        windows = windows.view(b, rows, cols, size, size, channels)
        # One copy back into the layout that `x` came in.
        if channels_last:  # (B, E, H, W) either way
            x = windows.transpose(2, 3).reshape(b, h, w, channels).permute(0, 3, 1, 2)
        else:
            x = windows.permute(0, 5, 1, 3, 2, 4).reshape(b, channels, h, w)
        if self.shift:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(2, 3))
        return x


class PatchProjection(nn.Module):
    """A 1x1 convolution into or out of the Swin width, with a norm where the weights have one."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        has_norm: bool,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        operations: Any,
    ):
        super().__init__()
        self.proj = operations.Conv2d(in_channels, out_channels, 1, dtype=dtype, device=device)
        self.norm = (
            operations.GroupNorm(32, out_channels, dtype=dtype, device=device)
            if has_norm
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (B, C, H, W) projected to `out_channels`."""
        return self.norm(self.proj(x))


class SwinLayer(nn.Module):
    """Swin blocks between two projections; the output replaces the input.

    Args:
        channels: Width of the UNet at this level.
        embed_dim: Width inside the layer.
        num_heads: Attention heads.
        window_size: Side of a window; where `resolution` is smaller, `resolution` takes its place.
        depth: Number of blocks. Odd-numbered ones shift by half a window if `resolution` is larger
            than the window.
        resolution: Side of the map at this level for the size the network was trained at.
        mlp_ratio: Hidden width of the MLP over `embed_dim`.
        patch_norm: Whether both projections are followed by a norm.
        dtype: Dtype of the weights.
        device: Device of the weights.
        operations: Layer classes of `comfy.ops`.
    """

    def __init__(
        self,
        channels: int,
        embed_dim: int,
        num_heads: int,
        window_size: int,
        depth: int,
        resolution: int,
        mlp_ratio: float,
        patch_norm: bool,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        operations: Any,
    ):
        super().__init__()
        made = {"dtype": dtype, "device": device, "operations": operations}
        window = min(window_size, resolution)
        odd_shift = window // 2 if resolution > window_size else 0
        self.patch_embed = PatchProjection(channels, embed_dim, patch_norm, **made)
        self.blocks = nn.ModuleList(
            SwinBlock(embed_dim, num_heads, window, odd_shift * (k % 2), mlp_ratio, **made)
            for k in range(depth)
        )
        self.patch_unembed = PatchProjection(embed_dim, channels, patch_norm, **made)

    def forward(self, x: Tensor, transformer_options: dict) -> Tensor:
        """Return the layer's output for `x` (B, C, H, W), same shape."""
        x = self.patch_embed(x)  # (B, E, H, W)
        for block in self.blocks:
            x = block(x, transformer_options)
        return self.patch_unembed(x)  # (B, C, H, W)
