"""Causal diffusion transformer: the dynamics of a world.

Tokens of a frame see all tokens of the same frame and of the last `window` frames (block-causal). Every frame has a
noise level of its own (diffusion forcing, Chen et al. 2024), told through adaptive norms (DiT, Peebles and Xie 2023)
together with the controls and the route ahead. Notable: with `history` > 0 a frame also gets the clean frames before
it as input channels, so the keys and values of its last denoising pass can stay in the cache and no extra clean pass
is needed. The network returns the clean frame; the velocity of the package's path is `(x - out) / sigma`.

Legend: B clips, F frames, P tokens per frame, N = F * P, D token width, E model width, H heads, L layers, W window,
M memories.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drivedit.config import StudentConfig
from drivedit.models.dit.generation import Generators, KVCache, generate
from drivedit.models.layers.attention import Recall, Spread, attention, clip_attention, spans_of
from drivedit.models.layers.blocks import Block, adaptive_norm, fourier_features, mlp
from drivedit.models.layers.rotary import rotate, rotations


class DiTStudent(nn.Module):
    """Block-causal diffusion transformer over latent tokens; `drivedit.config.StudentConfig` tells its arguments.

    Raises:
        ValueError: `d_model` is not a multiple of `2 * n_heads`, or a sequence is too long.
    """

    def __init__(
        self,
        latent_dim: int = 64,
        d_model: int = 512,
        n_layers: int = 12,
        n_heads: int = 8,
        d_ff: int | None = None,
        max_seq_len: int = 256,
        dropout: float = 0.1,
        use_rope: bool = True,
        rope_base: float = 10000.0,
        *,
        tokens_per_frame: int = 1,
        window: int | None = None,
        history: int = 0,
        control_dim: int = 0,
        route_dim: int = 0,
        map_dim: int = 0,
    ) -> None:
        super().__init__()
        if d_model % (2 * n_heads):
            raise ValueError(f"d_model must be a multiple of 2 * n_heads = {2 * n_heads}, got {d_model}")
        self.latent_dim, self.d_model, self.n_heads, self.history = latent_dim, d_model, n_heads, history
        self.tokens_per_frame, self.max_seq_len, self.window = tokens_per_frame, max_seq_len, window
        self.capacity = window or max_seq_len // tokens_per_frame
        self.use_rope, self.rope_base = use_rope, rope_base
        self.control_dim, self.route_dim, self.map_width = control_dim, route_dim, map_dim * tokens_per_frame
        self.embed = nn.Linear(latent_dim * (1 + history), d_model)
        self.position = nn.Parameter(torch.empty(tokens_per_frame, d_model).normal_().mul_(0.02))
        self.of_sigma = nn.Sequential(nn.Linear(16, d_model), nn.SiLU(), nn.Linear(d_model, d_model))
        self.of_control = mlp(control_dim, d_model) if control_dim else None
        self.of_route = mlp(route_dim - self.map_width, d_model) if route_dim else None
        self.of_map = mlp(map_dim, d_model) if map_dim else None
        self.blocks = nn.ModuleList(Block(d_model, n_heads, d_ff or 4 * d_model, dropout) for _ in range(n_layers))
        self.modulation = nn.Linear(d_model, (6 * n_layers + 2) * d_model)
        self.head = nn.Linear(d_model, latent_dim)
        for layer in (self.modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.modulation.bias.view(-1, d_model)[self.scales()] = 1
        self.config = StudentConfig(
            latent_dim, d_model, n_layers, n_heads, d_ff, max_seq_len, dropout, use_rope, rope_base,
            tokens_per_frame, window, history, control_dim, route_dim, map_dim,
        )  # fmt: skip
        self.spread: Spread | None = None  # over the processes that share clips in training

    @classmethod
    def from_config(cls, config: StudentConfig) -> DiTStudent:
        """Builds the network that a configuration describes."""
        return cls(**config.to_dict())

    def forward(
        self,
        x: Tensor,
        kv_cache: KVCache | None = None,
        use_cache: bool = False,
        *,
        sigma: Tensor | None = None,
        control: Tensor | None = None,
        route: Tensor | None = None,
        past: Tensor | None = None,
        memory: Tensor | None = None,
        frame_ids: Tensor | None = None,
    ) -> tuple[Tensor, KVCache | None]:
        """Estimates clean tokens.

        Args:
            x: Tokens `[B, N, D]` at noise level `sigma`.
            kv_cache: Cache of the frames before. N must be one frame, whose keys and values are written in place, over
                those of a frame that none will see again: until its clock moves on, the cache is as good as before.
            use_cache: Without a cache: whether to make and return one. With one: whether this pass is the frame's last,
                so that the cache's clock moves on (earlier passes are overwritten).
            sigma: `[B, F]` in [0, 1]; None: clean.
            control: `[B, F, control_dim]`; None: zeros.
            route: `[B, F, route_dim]`; None: zeros, which means no route.
            past: `[B, N, history * D]` clean frames before each frame, the latest first; None: zeros.
            memory: `[B, M, E]` tokens that every frame sees beside the frames before it (`MemoryBank.retrieve`); tokens
                of zeros are absent ones. None: none.
            frame_ids: `[F]` times of the frames, for a clip without caches; None: 0, 1, ... A time may come again:
                later frames see the first frame of a time, the others see themselves only. So noisy targets can stand
                beside the clean frames that their successors see.

        Returns:
            Clean estimate `[B, N, D]`, and the cache or None.

        Raises:
            ValueError: A shape does not fit, or the sequence is longer than `max_seq_len`.
        """
        hidden, condition, cache = self.features(
            x, kv_cache, use_cache, sigma=sigma, control=control, route=route, past=past, memory=memory,
            frame_ids=frame_ids,
        )  # fmt: skip
        return self.read(hidden, condition, past), cache

    def features(
        self,
        x: Tensor,
        kv_cache: KVCache | None = None,
        use_cache: bool = False,
        *,
        sigma: Tensor | None = None,
        control: Tensor | None = None,
        route: Tensor | None = None,
        past: Tensor | None = None,
        memory: Tensor | None = None,
        frame_ids: Tensor | None = None,
    ) -> tuple[Tensor, Sequence[Tensor], KVCache | None]:
        """Runs the trunk; arguments as in `forward`.

        Returns:
            Hidden tokens `[B, F, P, E]`, scale and shift of the output `[2, B, F, 1, E]`, and the cache or None.
        """
        rows, whole = x.shape[0], self._check(x, kv_cache, use_cache, memory, frame_ids)
        spread = self.spread if kv_cache is None and not use_cache else None
        if spread is not None:
            if whole % spread.size:
                raise ValueError(f"clips of {whole} frames do not divide over {spread.size} processes")
            x, given = spread.part(x), (past, sigma, control, route)
            past, sigma, control, route = (None if told is None else spread.part(told) for told in given)
            memory = None if memory is None else spread.alike(memory)
        frames = x.shape[1] // self.tokens_per_frame
        if sigma is None:
            sigma = x.new_zeros(rows, frames)
        if past is None:
            past = x.new_zeros(rows, x.shape[1], self.history * self.latent_dim)
        y = self.embed(torch.cat([x, past], -1)).unflatten(1, (frames, -1)) + self.position
        condition = self.of_sigma(fourier_features(sigma.float()).to(sigma.dtype))
        if self.of_control is not None:
            control = x.new_zeros(rows, frames, self.control_dim) if control is None else control
            condition = condition + self.of_control(control)
        if self.of_route is not None:
            route = x.new_zeros(rows, frames, self.route_dim) if route is None else route
            condition = condition + self.of_route(route[..., : self.route_dim - self.map_width])
            if self.of_map is not None:
                y = y + self.of_map(route[..., -self.map_width :].unflatten(-1, (self.tokens_per_frame, -1)))
        modulation = self.modulation(F.silu(condition))[:, :, None]
        parts = modulation.unflatten(-1, (-1, self.d_model)).unbind(-2)
        if kv_cache is None:
            attend, cache = self._attend_clip(rows, whole, y, use_cache, frame_ids, spread)
        else:
            attend, cache = self._attend_cache(kv_cache)
        for layer, block in enumerate(self.blocks):
            y = block(y, parts[6 * layer : 6 * layer + 6], attend(layer), memory, spread)
        if kv_cache is not None and use_cache:
            kv_cache.clock = kv_cache.clock + 1
        if spread is not None:
            return spread.whole(y), [spread.whole(part) for part in parts[-2:]], cache
        return y, parts[-2:], cache

    def generate(
        self,
        context: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        *,
        sampling_steps: int = 4,
        control: Tensor | None = None,
        memory: Tensor | None = None,
        generator: Generators = None,
    ) -> Tensor:
        """Continues clean tokens `[B, N, D]`; returns them with the new ones after them (see `generation.py`).

        Raises:
            ValueError: An argument is out of its range, or the whole does not fit into the cache.
        """
        return generate(
            self, context, max_new_tokens, temperature, top_k, top_p, sampling_steps=sampling_steps, control=control,
            memory=memory, generator=generator,
        )  # fmt: skip

    def read(self, hidden: Tensor, modulation: Sequence[Tensor], past: Tensor | None) -> Tensor:
        """The clean estimate `[B, N, D]`: the last clean frame plus what changes."""
        scale, shift = modulation
        out = self.head(adaptive_norm(hidden, scale, shift)).flatten(1, 2)
        if self.history and past is not None:
            out = out + past[..., : self.latent_dim]
        return out

    def scales(self) -> list[int]:
        """Which parts of the modulation are scales: they begin at one."""
        layers = len(self.blocks)
        return [6 * layer + part for layer in range(layers) for part in (0, 3)] + [6 * layers]

    def empty_cache(self, rows: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> KVCache:
        """A cache that has seen nothing."""
        sizes = (self.n_heads, self.capacity, self.tokens_per_frame, self.d_model // self.n_heads)
        k, v = (torch.zeros(len(self.blocks), rows, *sizes, device=device, dtype=dtype) for _ in range(2))
        return KVCache(k, v, torch.zeros(rows, dtype=torch.long, device=device))

    def _check(
        self, x: Tensor, cache: KVCache | None, use_cache: bool, memory: Tensor | None, frame_ids: Tensor | None
    ) -> int:
        per_frame = self.tokens_per_frame
        if x.ndim != 3 or x.shape[-1] != self.latent_dim or x.shape[1] % per_frame or x.shape[1] == 0:
            raise ValueError(f"tokens must be [B, k * {per_frame}, {self.latent_dim}], got {tuple(x.shape)}")
        length = x.shape[1] if frame_ids is None else len(frame_ids.unique()) * per_frame
        if length > self.max_seq_len:
            raise ValueError(f"at most max_seq_len = {self.max_seq_len} tokens in one call, got {length}")
        if memory is not None and (memory.ndim != 3 or memory.shape[::2] != (len(x), self.d_model)):
            raise ValueError(f"memory must be [{len(x)}, M, {self.d_model}], got {tuple(memory.shape)}")
        if frame_ids is not None:
            if cache is not None or use_cache:
                raise ValueError("frame_ids are for whole clips: leave out kv_cache and use_cache")
            if frame_ids.shape != (x.shape[1] // per_frame,):
                raise ValueError(f"frame_ids must be [{x.shape[1] // per_frame}], got {tuple(frame_ids.shape)}")
        if cache is not None:
            if x.shape[1] != per_frame:
                raise ValueError(f"with a cache give one frame of {per_frame} tokens, got {x.shape[1]} tokens")
            if self.window is None and int(cache.clock.max()) >= self.capacity:
                raise ValueError(f"the cache is full ({self.capacity} frames); set `window` for endless rollouts")
        return x.shape[1] // per_frame

    def _sees(self, time: Tensor) -> Tensor:
        """Which frame of a clip sees which `[F, F]`, by their times `[F]`: itself, and the first one of a past time."""
        order = torch.arange(len(time), device=time.device)
        lag = time[:, None] - time[None, :]
        first = (lag == 0).int().argmax(0) == order
        return (lag > 0) & (lag < self.capacity) & first | (order[:, None] == order)

    def _attend_clip(
        self, rows: int, frames: int, y: Tensor, keep: bool, frame_ids: Tensor | None, spread: Spread | None
    ) -> tuple[Any, KVCache | None]:
        """Attention within a clip of so many frames, perhaps spread, and the cache of its last ones."""
        time = torch.arange(frames, device=y.device) if frame_ids is None else frame_ids.to(y.device)
        mask = self._sees(time)
        mask = mask.repeat_interleave(self.tokens_per_frame, 0).repeat_interleave(self.tokens_per_frame, 1)
        spans = [(slice(None), slice(None))]
        if frame_ids is None and not keep and y.device.type == "cpu":  # an accelerator has one kernel for all
            spans = spans_of(frames, self.capacity, self.tokens_per_frame)
        turn = self._turn(time[None])
        cache = self.empty_cache(rows, y.device, y.dtype) if keep else None
        if cache is not None:
            cache.clock += frames
        last = time[-self.capacity :]

        def attend(layer: int) -> Any:
            def run(qk: Tensor, v: Tensor, recall: Recall | None) -> Tensor:
                if spread is not None:
                    qk, v = spread.by_heads(qk), spread.by_heads(v)
                    if recall is not None:
                        recall = recall._replace(
                            keys=spread.own_heads(recall.keys), values=spread.own_heads(recall.values)
                        )
                q, k = rotate(qk, turn).unbind(-3)
                if cache is not None:
                    for kept, value in ((cache.k, k), (cache.v, v)):
                        kept[layer, :, :, last % self.capacity] = value[:, last].permute(0, 3, 1, 2, 4).to(kept)
                plain = q if recall is None else qk[..., 0, :, :]
                q, plain, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, plain, k, v))
                out = clip_attention(q, plain, k.to(q), v.to(q), mask, recall, spans)
                out = out.transpose(1, 2).unflatten(1, (frames, -1))
                return (out if spread is None else spread.by_frames(out)).flatten(3)

            return run

        return attend, cache

    def _attend_cache(self, cache: KVCache) -> tuple[Any, KVCache]:
        """Attention of one new frame to the ring buffer, into which its keys and values are written."""
        clock, dtype = cache.clock, cache.k[0].dtype
        rows, slot = torch.arange(len(clock), device=clock.device), clock % self.capacity
        slots, young = [], True
        if not torch.compiler.is_compiling():  # a graph sees no values: it is ready for rows of any age
            clocks = clock.tolist()
            slots, young = [frames % self.capacity for frames in clocks], min(clocks) < self.capacity - 1
        together = len(set(slots)) == 1  # then the ring is written as a slice
        turn = self._turn(clock[:, None], dtype)
        mask = None
        if young:
            filled = torch.arange(self.capacity, device=clock.device) <= clock[:, None]
            mask = filled.repeat_interleave(self.tokens_per_frame, 1)[:, None, None]

        def attend(layer: int) -> Any:
            keys, values = cache.k[layer], cache.v[layer]  # [B, H, W, P, E/H]

            def run(qk: Tensor, v: Tensor, recall: Recall | None) -> Tensor:
                q, k = rotate(qk, turn)[:, 0].transpose(1, 3).unbind(2)  # [B, H, P, E/H]
                v = v[:, 0].transpose(1, 2)
                if together:
                    keys[:, :, slots[0]], values[:, :, slots[0]] = k, v
                else:
                    keys[rows, :, slot], values[rows, :, slot] = k.to(dtype), v.to(dtype)
                plain = qk[:, 0, :, 0].transpose(1, 2)
                out = attention(q, plain, keys.flatten(2, 3).to(q), values.flatten(2, 3).to(q), mask, recall)
                return out.transpose(1, 2).flatten(2)[:, None]

            return run

        return attend, cache

    def _turn(self, time: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor] | None:
        """The rotation that frame times `[B, F]` stand for; None without rotary positions."""
        return rotations(time, self.d_model // self.n_heads, self.rope_base, dtype) if self.use_rope else None
