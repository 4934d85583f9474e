"""Free text with any of the decoders: completing a prompt, and infilling holes in a text.

A model whose clean context is a whole block (Fast-dLLM v2 2509.26328, Efficient-DLM 2512.14067) reads its prompt on the
absolute grid of blocks, as in training: whole blocks at once; what is left over lies inside the first decoded block.
The AR family reads any prompt causally.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efficientgen.planning.cache import KVCache, Mode
from efficientgen.planning.decode import DECODERS, NOT_AUTOREGRESSIVE, decode_diffusion
from efficientgen.planning.decode_form import OPEN, Answer, Counts, TextForm, reader
from efficientgen.planning.model import VisionLanguageModel


class TextRequestError(ValueError):
    """A prompt or a text with holes that cannot be completed as asked."""


@torch.inference_mode()
def complete(
    model: VisionLanguageModel, prompt: list[int], max_new_tokens: int, decoder: str = "diffusion", **options: object
) -> Answer:
    """Continue `prompt` (token ids) up to the end-of-turn token, which the answer then ends with, or `max_new_tokens`.

    `options` go to the decoder, for instance `confidence`.  Lossless as far as the decoder is; AR and self-speculation
    read the prompt causally, whatever the model's clean context.

    Raises:
        TextRequestError: the prompt is empty, nothing is to be written, or there is no such decoder.
        NotAutoregressiveError: the decoder needs next-token logits that the model does not have.
    """
    if decoder not in DECODERS:
        raise TextRequestError(f"no decoder '{decoder}'; choose one of {', '.join(DECODERS)}")
    if not prompt or max_new_tokens < 1:
        raise TextRequestError(f"a prompt of {len(prompt)} tokens and {max_new_tokens} new ones: at least 1 of each")
    config = model.config
    on_grid = decoder in NOT_AUTOREGRESSIVE and config.clean_context == "block"
    held = len(prompt) - len(prompt) % config.decode_block_size if on_grid else len(prompt)
    given = prompt[held:]
    form = _form(model, given + [OPEN] * max_new_tokens, config.im_end_token_id)
    cache = _cache(model, len(prompt) + max_new_tokens)
    logits = read(model, cache, prompt[:held], on_grid)
    answer = DECODERS[decoder](model, cache, form, logits, held, **options)
    answer.counts.values = len(answer.ids) - len(given)
    return Answer(answer.ids[len(given) :], answer.counts)


@torch.inference_mode()
def infill(model: VisionLanguageModel, text: list[int], **options: object) -> Answer:
    """Fill the holes (`OPEN`, -1) of `text` by block diffusion and give the whole text back.

    A hole sees all text to its left and, to its right, what lies in its own block of `decode_block_size` tokens on the
    grid: with the block-causal context of these models nothing further is visible.

    Not lossless against AR, which cannot infill at all; equal to its own uncached definition as `decode_diffusion` is.

    Raises:
        TextRequestError: there is no hole, or the model has a token shift and the text begins with one.
    """
    if OPEN not in text:
        raise TextRequestError("the text has no hole to fill; mark each missing token with -1")
    if text[0] == OPEN and model.config.token_shift:
        raise TextRequestError("the text begins with a hole, and this model predicts a token from the one before it")
    block = model.config.decode_block_size
    held = text.index(OPEN) // block * block
    cache = _cache(model, len(text))
    logits = read(model, cache, text[:held], model.config.clean_context == "block")
    answer = decode_diffusion(model, cache, _form(model, text[held:], None), logits, held, **options)  # type: ignore[arg-type]
    return Answer(text[:held] + answer.ids, answer.counts)


def read(model: VisionLanguageModel, cache: KVCache, ids: list[int], on_grid: bool) -> Tensor:
    """Read text into an empty cache, causally or as whole blocks on the grid; logits (V,) of the last token."""
    if not ids:
        return torch.zeros(model.config.text.vocab_size, dtype=cache.store.dtype, device=cache.store.device)
    device = cache.store.device
    mode: Mode | Tensor = block_causal(len(ids), model.config.decode_block_size).to(device) if on_grid else "causal"
    return model.logits(reader(model, cache, 0, Counts())(ids, 0, mode)[-1])


def block_causal(length: int, block: int) -> Tensor:
    """Bool (L, L), True where the row's token sees the column's: its own block on the grid and all before it."""
    turn = torch.arange(length) // block
    return turn[:, None] >= turn[None, :]


def _form(model: VisionLanguageModel, given: list[int], stop: int | None) -> TextForm:
    config = model.config
    device = next(model.parameters()).device
    return TextForm(given, config.decode_block_size, config.mask_token_id, config.text.vocab_size, device, stop)


def _cache(model: VisionLanguageModel, capacity: int) -> KVCache:
    parameter = next(model.parameters())
    return KVCache(model.config.text, capacity, parameter.dtype, parameter.device)
