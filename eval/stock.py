"""Stock transformers as the reference of our decoders: the same weights, no cache, every mask written out.

`Stock` reads [prompt | tokens] anew for each question, under an explicit (S, S) mask.  On it stand the two definitions
that a decoder is compared with: `autoregressive_choices`, what greedy AR would write behind every prefix of an answer,
and `uncached_diffusion`, block diffusion without a K/V cache.  Nothing here touches our layers, caches or decoders, but
for the `Form` (what is forced, what is allowed).  transformers is loaded here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efficientgen.perception.vision import Grid
from efficientgen.planning.checkpoint import config_to_json
from efficientgen.planning.config import ModelConfig, TextConfig
from efficientgen.planning.decode_diffusion import Pass
from efficientgen.planning.decode_form import Form
from efficientgen.planning.model import VisionLanguageModel


class NoReferenceError(RuntimeError):
    """transformers, which decoders are compared with, is not installed."""


@dataclass(frozen=True)
class Prefix:
    """A prompt as stock transformers embeds it: (1, P, hidden), its positions (3, P) and the next text position."""

    embeds: Tensor
    positions: Tensor
    next_position: int


@dataclass
class Agreement:
    """How a decode compares with its reference, token by token, each behind the same prefix.

    A gap is by how much the reference prefers its own choice where the two differ: in logits between two tokens, in
    probability between two positions to write first (or to the threshold).
    """

    tokens: int = 0
    same: int = 0
    logit_gap: float = 0.0
    confidence_gap: float = 0.0

    def enter(self, logits: Tensor, ours: int) -> None:
        """Compare a token with the best of the reference's logits (V,)."""
        self.tokens += 1
        self.same += int(logits.argmax()) == ours
        self.logit_gap = max(self.logit_gap, float(logits.max() - logits[ours]))

    def add(self, other: Agreement) -> None:
        self.tokens, self.same = self.tokens + other.tokens, self.same + other.same
        self.logit_gap = max(self.logit_gap, other.logit_gap)
        self.confidence_gap = max(self.confidence_gap, other.confidence_gap)


class Stock:
    """Qwen2.5-VL, Qwen2.5 or Qwen3 of transformers with the weights of one of our models, in `dtype`."""

    def __init__(self, model: VisionLanguageModel, dtype: torch.dtype = torch.float64, device: str = "cpu"):
        self.config, self.device = model.config, torch.device(device)
        with self.device:
            self.model = _build(model.config)
        state = {k: v.detach().to(device, dtype) for k, v in model.state_dict().items()}
        if model.config.vision is None:
            state = {k.replace("model.language_model.", "model."): v for k, v in state.items()}
        _convert(self.model, dtype)
        missing, surplus = self.model.load_state_dict(state, strict=False)
        if not set(missing) <= {"lm_head.weight"} or surplus:
            raise NoReferenceError(f"stock transformers lacks {surplus[:3]} and wants {missing[:3]}")
        self.model.tie_weights()
        self.model.eval().requires_grad_(False)
        self.text = self.model.model.language_model if model.config.vision is not None else self.model.model

    def prefix(self, ids: list[int], patches: Tensor | None = None, grids: tuple[Grid, ...] = ()) -> Prefix:
        """The prompt's embeddings and positions; `patches` (1, N, 1176) of its images."""
        row = torch.tensor([ids], dtype=torch.long, device=self.device)
        embeds = self.text.embed_tokens(row)
        if patches is None:
            return Prefix(embeds, torch.arange(len(ids), device=self.device).expand(3, -1), len(ids))
        grid = torch.tensor(grids, device=self.device)
        seen = self.model.model.visual(patches[0].to(embeds.dtype), grid_thw=grid)
        images = row == self.config.image_token_id
        embeds = embeds.masked_scatter(images[..., None], getattr(seen, "pooler_output", seen).to(embeds.dtype))
        positions, _ = self.model.model.get_rope_index(row, images.int(), image_grid_thw=grid)
        return Prefix(embeds, positions[:, 0], int(positions.max()) + 1)

    def logits(self, prefix: Prefix, ids: list[int], places: Sequence[int], seen: Tensor) -> Tensor:
        """(S, V) of [prefix | ids], ids at answer positions `places`, under the bool mask `seen` (S, S)."""
        more = torch.tensor([ids], dtype=torch.long, device=self.device)
        embeds = torch.cat([prefix.embeds, self.text.embed_tokens(more)], 1)
        after = torch.tensor(places, dtype=torch.long, device=self.device).expand(3, -1) + prefix.next_position
        positions = torch.cat([prefix.positions, after], 1)[:, None]  # (3, 1, S)
        hidden = self.text(
            inputs_embeds=embeds,
            position_ids=positions if self.config.vision is not None else positions[0],
            attention_mask=seen[None, None].to(self.device),
            use_cache=False,
        ).last_hidden_state
        return self.model.lm_head(hidden)[0]


def autoregressive_choices(stock: Stock, prefix: Prefix, form: Form, ids: list[int]) -> Agreement:
    """Compare an answer with greedy AR: at each position, the best allowed token under causal logits.

    Where all agree, by induction over positions `ids` is what token-by-token AR writes.
    """
    size = prefix.embeds.shape[1] + len(ids)
    logits = stock.logits(prefix, ids, range(len(ids)), torch.ones(size, size, dtype=torch.bool).tril_())
    rows = constrained(form, logits[prefix.embeds.shape[1] - 1 : -1], range(len(ids)))
    out = Agreement()
    for p, token in enumerate(ids):
        if form.scaffold[p] < 0:
            out.enter(rows[p], token)
        elif token != form.scaffold[p]:
            raise ValueError(f"position {p} holds token {token} where {form.scaffold[p]} is forced")
    return out


def rounding(stock: Stock, low: Stock, prefixes: tuple[Prefix, Prefix], form: Form, ids: list[int]) -> Agreement:
    """What the dtype alone does: choices of stock transformers in `low`'s dtype against those in float64.

    Both read [prompt, ids] causally; `prefixes` are the prompt in either dtype.
    """
    size = prefixes[0].embeds.shape[1] + len(ids)
    seen = torch.ones(size, size, dtype=torch.bool).tril_()
    wide, narrow = (
        constrained(form, each.logits(prefix, ids, range(len(ids)), seen)[size - len(ids) - 1 : -1], range(len(ids)))
        for each, prefix in zip((stock, low), prefixes, strict=True)
    )
    out = Agreement()
    for p in range(len(ids)):
        if form.scaffold[p] < 0:
            out.enter(wide[p], int(narrow[p].argmax()))
    return out


def uncached_diffusion(
    stock: Stock,
    prefix: Prefix,
    form: Form,
    confidence: float,
    sub_block: int,
    reuse: bool,
    follow: Sequence[Pass] | None = None,
) -> tuple[list[int], Agreement]:
    """Block diffusion by its definition: each pass reads [prompt | finished blocks | block] anew under a written mask.

    Finished blocks see what the config's clean context allows, the current block sees them and itself.  With `reuse` a
    later pass over a sub-block reads [... | block as of the last whole pass | sub-block now]; the sub-block's rows see
    that older block's other rows, which is what the sub-block cache keeps.

    Args:
        follow: passes of another decode.  Each of them is judged, then its choice is taken over, so that one difference
            does not make all that follows incomparable.

    Returns:
        The answer up to the stop token, and the agreement with `follow`.
    """
    config, agreement, taken = stock.config, Agreement(), iter(follow or ())
    mask, shift = config.mask_token_id, config.token_shift
    prompt = prefix.embeds.shape[1]
    ids: list[int] = []
    last = max(p + 1 for p, s in enumerate(form.scaffold) if s < 0)
    for start, end in form.blocks:
        block = [s if s >= 0 else mask for s in form.scaffold[start:end]]
        if shift and block[0] == mask:
            logits = stock.logits(prefix, ids, range(start), clean_mask(config, prompt + start))[-1:]
            scores = constrained(form, logits, [start])
            block[0] = int(scores[0].argmax())
            if follow is not None:
                block[0] = _judge(agreement, {0: scores[0]}, {0: 1.0}, {0: block[0]}, next(taken), confidence)[0]
        for low in range(0, len(block), sub_block):
            high, older = min(low + sub_block, len(block)), list[int]()
            while mask in block[low:high] and not _ended(form, block, start, mask):
                part = reuse and bool(older) and not (shift and block[low] == mask)
                older = older if part else list(block)
                rows = (low, high) if part else (0, len(block))
                tokens, places = ids + older, list(range(end))
                seen = block_mask(config, prompt + start, len(block))
                if part:
                    tokens, places = tokens + block[low:high], places + list(range(start + low, start + high))
                    seen = part_mask(seen, prompt + start, rows)
                logits = stock.logits(prefix, tokens, places, seen)[-(rows[1] - rows[0]) :]
                hidden = [p for p in range(low, high) if block[p] == mask]
                scores = constrained(form, logits[[p - shift - rows[0] for p in hidden]], [start + p for p in hidden])
                sure = dict(zip(hidden, scores.softmax(-1).amax(-1).tolist(), strict=True))
                best = dict(zip(hidden, scores.argmax(-1).tolist(), strict=True))
                chosen = [p for p in hidden if sure[p] > confidence] or [max(hidden, key=lambda p: sure[p])]
                written = {p: best[p] for p in chosen}
                if follow is not None:
                    by_place = dict(zip(hidden, scores, strict=True))
                    written = _judge(agreement, by_place, sure, written, next(taken), confidence)
                for p, token in written.items():
                    block[p] = token
        ids += block
        stop = _stop(form, ids)
        if stop is not None or end >= last:
            ids = (ids + form.scaffold[len(ids) :])[:stop]
            break
    return ids, agreement


def constrained(form: Form, logits: Tensor, positions: Sequence[int]) -> Tensor:
    """Logits (n, V) with the tokens that the form does not allow at `positions` at -inf."""
    rows = torch.tensor([form.allow[p] for p in positions], dtype=torch.long)
    return logits.masked_fill(form.penalty.cpu()[rows] < 0, -torch.inf)


def clean_mask(config: ModelConfig, length: int) -> Tensor:
    """Bool (L, L): who sees whom in clean text, token-causal or block-causal on the absolute grid."""
    turn = torch.arange(length) // (1 if config.clean_context == "token" else config.decode_block_size)
    return turn[:, None] >= turn[None, :]


def block_mask(config: ModelConfig, clean: int, block: int) -> Tensor:
    """Bool (S, S) of [clean | block]: the block sees all, nothing clean sees the block."""
    seen = torch.ones(clean + block, clean + block, dtype=torch.bool)
    seen[:clean, :clean], seen[:clean, clean:] = clean_mask(config, clean), False
    return seen


def part_mask(seen: Tensor, clean: int, rows: tuple[int, int]) -> Tensor:
    """`block_mask` with the block's rows [low, high) once more behind it, as they are now: these see clean text, the
    older block's other rows and themselves."""
    size, more = len(seen), rows[1] - rows[0]
    out = torch.zeros(size + more, size + more, dtype=torch.bool)
    out[:size, :size] = seen
    out[size:] = True
    out[size:, clean + rows[0] : clean + rows[1]] = False
    return out


def _judge(
    agreement: Agreement,
    logits: dict[int, Tensor],
    sure: dict[int, float],
    written: dict[int, int],
    theirs: Pass,
    confidence: float,
) -> dict[int, int]:
    """Enter a pass and give what it wrote; a token agrees if the reference would have written it in the same pass."""
    for p, token in theirs.committed.items():
        agreement.enter(logits[p], token)
        agreement.same -= p not in written and int(logits[p].argmax()) == token  # right, but in another pass
    for p in written.keys() ^ theirs.committed.keys():
        gap = min(abs(sure[p] - confidence), max(sure.values()) - sure[p])
        agreement.confidence_gap = max(agreement.confidence_gap, gap)
    return theirs.committed


def _stop(form: Form, ids: list[int], start: int = 0) -> int | None:
    return next((i + 1 for i, t in enumerate(ids) if t == form.stop and form.scaffold[start + i] < 0), None)


def _ended(form: Form, block: list[int], start: int, mask: int) -> bool:
    stop = _stop(form, block, start)
    return stop is not None and mask not in block[:stop]


def _build(config: ModelConfig) -> Any:
    """The stock class of a config, uninitialised weights."""
    try:
        import transformers
    except ImportError as error:
        raise NoReferenceError("the reference is stock transformers: pip install transformers") from error
    common = _text_keys(config.text) | {"attn_implementation": "sdpa"}
    if config.vision is not None:
        keys = json.loads(json.dumps(config_to_json(config))) | {"attn_implementation": "sdpa"}
        return transformers.Qwen2_5_VLForConditionalGeneration(transformers.Qwen2_5_VLConfig(**keys))
    if config.text.qk_norm:
        return transformers.Qwen3ForCausalLM(
            transformers.Qwen3Config(**common, head_dim=config.text.head_dim, attention_bias=config.text.qkv_bias)
        )
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**common))


def _convert(model: Any, dtype: torch.dtype) -> None:
    """`model.to(dtype)`, but for rotary frequencies, which loading in a half precision leaves in float32."""
    kept = {name: value.clone() for name, value in model.named_buffers() if name.endswith("inv_freq")}
    model.to(dtype)
    if dtype.itemsize < 4:
        for name, value in kept.items():
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, value)


def _text_keys(text: TextConfig) -> dict[str, Any]:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "vocab_size", "rms_norm_eps", "tie_word_embeddings")  # fmt: skip
    keys = {name: getattr(text, name) for name in names}
    return keys | {"rope_parameters": {"rope_type": "default", "rope_theta": text.rope_theta}}
