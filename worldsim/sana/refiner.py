"""The second stage of SANA-WM (arXiv 2605.15178): LTX-2's transformer refines the student's latents, as a stream.

diffusers has the transformer with its sliding window of keys and values (`SanaWMLTX2RefinerTransformer3DModel`) and a
pipeline that refines a whole clip.  A closed loop has one chunk at a time, so the window is kept between chunks here:
the raw first frame is the sink, whose positions slide so that it always lies right before the window; blocks of up to
three frames start from the student's latents mixed with noise and take three Euler steps; the refined block's keys and
values join the window of ten frames.  What comes out is decoded; the student goes on from its own latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efficientgen.kernels.shards import CheckpointError
from efficientgen.worldsim.sana.sampler import require_finite

SIGMAS = (0.909375, 0.725, 0.421875, 0.0)  # of the distilled refiner
BLOCK, SINK, WINDOW = 3, 1, 10  # frames
FOLDERS = ("refiner_diffusers", "refiner")  # of the streaming release and of the bidirectional one
ENCODERS = ("gemma3_12b", "refiner/text_encoder")
TOKENIZERS = ("gemma3_12b", "refiner/tokenizer")
PROMPT_TOKENS = 1024


@dataclass(frozen=True)
class RefinerText:
    """A prompt as the connectors pass it on: hidden states (B, L, C), and which of them count (B, L)."""

    hidden: Tensor
    mask: Tensor


class Refiner:
    """Latents of consecutive chunks to refined ones, between `begin` and `begin`.

    Args:
        transformer: diffusers' `SanaWMLTX2RefinerTransformer3DModel`.
        texts: prompts by name.
        fps: pictures per second of the stream.
    """

    def __init__(self, transformer: Any, texts: Mapping[str, RefinerText], fps: float) -> None:
        self._transformer, self._texts, self._fps = transformer, texts, fps
        self._cache: Any = None
        self._text: RefinerText | None = None
        self._seen, self._held = 0, 0  # frames so far, and those in the window

    @property
    def parameters(self) -> int:
        """Of the transformer, the halves for sound included that nothing here reads."""
        return sum(p.numel() for p in self._transformer.parameters())

    @property
    def bytes(self) -> int:
        """Memory that is carried from chunk to chunk."""
        if self._cache is None:
            return 0
        layers = [self._cache.get(i) for i in range(len(self._cache))]
        pairs = [pair for layer in layers for pair in (layer.get_sink(), layer.get_history()) if pair is not None]
        return sum(x.numel() * x.element_size() for pair in pairs for x in pair)

    def begin(self, name: str) -> None:
        """A new stream under the prompt `name`."""
        from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMRefinerKVCache

        self._cache = SanaWMRefinerKVCache(len(self._transformer.transformer_blocks))
        self._text, self._seen, self._held = self._texts[name], 0, 0

    @torch.inference_mode()
    def refine(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Latents (B, C, T, H, W) of the next chunk, refined; a stream's first frame stays what it is.

        Args:
            noise: like the latents, standard normal.

        Raises:
            DivergedError: the result is not finite.
        """
        dtype = self._transformer.dtype
        z, out, begin = latents.to(dtype), list[Tensor](), 0
        if self._seen == 0:
            begin, out = SINK, [latents[:, :, :SINK]]
            self._pass(z[:, :, :SINK], 0.0, 0, "capture_pre_rope")
            for layer in self._layers():
                layer.store_sink(*layer.get_captured_pre_rope())
            self._seen = SINK
        for start in range(begin, z.shape[2], BLOCK):
            part = slice(start, min(start + BLOCK, z.shape[2]))
            refined = self._block(z[:, :, part], noise[:, :, part].to(dtype))
            out.append(refined.to(latents))
        result = torch.cat(out, 2)
        require_finite(result)
        return result

    def _block(self, z: Tensor, noise: Tensor) -> Tensor:
        """One block of frames that attend to the sink, the window and each other."""
        frames, size = z.shape[2], (z.shape[3], z.shape[4])
        sink = range(self._seen - self._held - SINK, self._seen - self._held)
        self._cache.sink_pe = self._rotary(list(sink), z.shape[0], size, z.device)
        x = ((1.0 - SIGMAS[0]) * z.float() + SIGMAS[0] * noise.float()).to(z.dtype)
        for sigma, following in zip(SIGMAS, SIGMAS[1:], strict=False):
            velocity = self._pass(x, sigma, self._seen, "inject")
            clean = (x.float() - sigma * velocity.float()).to(x.dtype).float()
            x = (x.float() + (following - sigma) * ((x.float() - clean) / sigma)).to(x.dtype)
        self._pass(x, 0.0, self._seen, "inject_and_capture_post_rope")
        self._seen, self._held = self._seen + frames, min(self._held + frames, WINDOW)
        for layer in self._layers():
            new, old = layer.get_captured_post_rope(), layer.get_history()
            both = new if old is None else tuple(torch.cat(pair, 1) for pair in zip(old, new, strict=True))
            layer.store_history(*(y[:, -self._held * size[0] * size[1] :] for y in both))
        return x

    def _pass(self, x: Tensor, sigma: float, first: int, mode: str) -> Tensor:
        """Velocity of a block at the noise level `sigma` whose first frame is the stream's `first`-th."""
        assert self._text is not None
        batch, _, frames, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)  # (B, T H W, C)
        scale = float(self._transformer.config.timestep_scale_multiplier)
        out: Tensor = self._transformer(
            hidden_states=tokens,
            encoder_hidden_states=self._text.hidden,
            timestep=torch.full(tokens.shape[:2], sigma * scale, device=x.device),
            video_rotary_emb=self._rotary(list(range(first, first + frames)), batch, (height, width), x.device),
            encoder_attention_mask=self._text.mask,
            kv_cache=self._cache,
            kv_cache_mode=mode,
            return_dict=False,
        )[0]
        return out.transpose(1, 2).unflatten(2, (frames, height, width))

    def _rotary(self, frames: list[int], batch: int, size: tuple[int, int], device: torch.device) -> Any:
        return self._transformer.build_rotary_emb_for_absolute_positions(
            batch_size=batch, frame_positions=frames, height=size[0], width=size[1], device=device, fps=self._fps
        )

    def _layers(self) -> list[Any]:
        return [self._cache.get(i) for i in range(len(self._cache))]


def load_refiner(
    directory: Path, prompts: Mapping[str, str], dtype: torch.dtype, device: str | torch.device, fps: float
) -> Refiner:
    """The refiner in a release: `refiner_diffusers/` with `transformer/` and `connectors/`, and Gemma 3 beside it.

    The prompts are encoded first and the encoder let go, for it is as large as the rest.

    Raises:
        CheckpointError: a part is missing or damaged.
        ImportError: diffusers is not installed.
    """
    from diffusers import SanaWMLTX2RefinerTransformer3DModel

    folder = _first(directory, FOLDERS, "the LTX-2 refiner") / "transformer"
    texts = encode_for_refiner(directory, prompts, dtype, device)
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} holds no refiner (config.json is missing); fetch the release's")
    try:
        loaded: Any = SanaWMLTX2RefinerTransformer3DModel.from_pretrained(
            folder, torch_dtype=dtype, local_files_only=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder} holds no sound refiner: {str(error)[:300]}") from error
    if (loaded.config.patch_size, loaded.config.patch_size_t) != (1, 1):
        raise CheckpointError(f"{folder} takes latents in patches; the release's refiner takes them one by one")
    return Refiner(loaded.to(device).eval().requires_grad_(False), texts, fps)


@torch.inference_mode()
def encode_for_refiner(
    directory: Path, prompts: Mapping[str, str], dtype: torch.dtype, device: str | torch.device
) -> dict[str, RefinerText]:
    """Each prompt through Gemma 3 and the connectors, as diffusers' pipeline does it.

    Raises:
        CheckpointError: a part is missing or damaged.
    """
    from diffusers import SanaWMLTX2Refiner
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from transformers import AutoTokenizer, Gemma3ForConditionalGeneration

    connectors = _first(directory, FOLDERS, "the LTX-2 refiner") / "connectors"
    encoder = _first(directory, ENCODERS, "the refiner's text encoder (Gemma 3 12B)")
    tokenizer = _first(directory, TOKENIZERS, "the refiner's tokenizer")
    try:
        parts: dict[str, Any] = {
            "tokenizer": AutoTokenizer.from_pretrained(tokenizer, local_files_only=True),
            "text_encoder": Gemma3ForConditionalGeneration.from_pretrained(encoder, dtype=dtype, local_files_only=True),
            "connectors": LTX2TextConnectors.from_pretrained(
                connectors, torch_dtype=dtype, local_files_only=True, low_cpu_mem_usage=False
            ),
        }
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{directory}'s refiner cannot read prompts: {str(error)[:300]}") from error
    for name in ("text_encoder", "connectors"):
        parts[name] = nn.Module.to(parts[name], device).eval()
    pipeline: Any = SanaWMLTX2Refiner(transformer=None, scheduler=None, text_max_sequence_length=PROMPT_TOKENS, **parts)
    out = {}
    for name, prompt in prompts.items():
        hidden, mask = pipeline._encode_prompt(prompt, device=torch.device(device), dtype=dtype)
        out[name] = RefinerText(hidden, mask)
    return out


def _first(directory: Path, names: tuple[str, ...], what: str) -> Path:
    for name in names:
        if (directory / name).is_dir():
            return directory / name
    raise CheckpointError(f"{directory} has no {names[0]}/ ({what}); fetch the release's, or drive without refining")
