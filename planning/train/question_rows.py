"""Training rows of several questions about one scene, and the loss on their answers (Fast-dVLM, 2604.06832).

A row is [scene | question 1, answer 1, draft 1 | question 2, ...]: pictures and command are read once, and every
question sees them and itself, as if it were the only one.  The clean answer is trained to be written token by token.
The draft is the block that self-speculation asks for: it begins anywhere in the answer, its first token is known, the
others are MASK (or partly so) and see each other, the scene, the question and the clean answer before the block.
Tokens are predicted from the one before (token shift), in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientgen.planning.model import Attend, LayerAttend, VisionLanguageModel


@dataclass(frozen=True)
class Phrases:
    """Token ids of all questions (W, LQ) and answers (A, LA), right-padded with 0, and their lengths."""

    question: Tensor
    question_length: Tensor
    answer: Tensor
    answer_length: Tensor

    @staticmethod
    def of(questions: list[list[int]], answers: list[list[int]]) -> Phrases:
        def table(texts: list[list[int]]) -> tuple[Tensor, Tensor]:
            lengths = torch.tensor([len(t) for t in texts])
            out = torch.zeros(len(texts), int(lengths.max()), dtype=torch.long)
            for i, text in enumerate(texts):
                out[i, : len(text)] = torch.tensor(text)
            return out, lengths

        return Phrases(*table(questions), *table(answers))


@dataclass(frozen=True)
class Rows:
    """B scenes with K questions each: a row is [scene (P) | K segments of W tokens], S = P + K W.

    ids (B, S), positions (3, B, S); `mask` (B K, 1, W, P + W): whom a segment's tokens see of the scene and of
    themselves.  `*_predictors` are the places in the row of the tokens that predict the targets (-100: none).
    """

    ids: Tensor
    positions: Tensor
    prefix: int
    mask: Tensor
    clean_predictors: Tensor  # (B, K, LA)
    clean_targets: Tensor
    draft_predictors: Tensor  # (B, K, N - 1)
    draft_targets: Tensor

    def to(self, device: torch.device | str) -> Rows:
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return Rows(**moved)


def assemble(
    scene: Tensor,
    scene_positions: Tensor,
    phrases: Phrases,
    questions: Tensor,
    answers: Tensor,
    draft: int,
    mask_id: int,
    generator: torch.Generator | None,
    full_probability: float = 0.6,
) -> Rows:
    """Lay out rows.

    Args:
        scene: (B, P) ids, image positions included; `scene_positions` (3, P) are the same for all rows.
        questions, answers: (B, K) rows of `phrases`; an answer of -1 marks a place where nothing is asked.
        draft: tokens of the draft block; 0: none, for scoring.
        full_probability: how often a draft is all MASK behind its first token, the state that drafting starts from.
    """
    batch, prefix = scene.shape
    begin = int(scene_positions.max()) + 1
    asked = (answers >= 0)[..., None]
    q, turn = phrases.question[questions], phrases.question_length[questions][..., None]  # (B, K, LQ), (B, K, 1)
    a, length = phrases.answer[answers.clamp(min=0)], phrases.answer_length[answers.clamp(min=0)][..., None]
    in_q, in_a = torch.arange(q.shape[2]), torch.arange(a.shape[2])
    start = torch.zeros_like(length)
    if draft:
        start = (torch.rand(length.shape, generator=generator) * length).long()
    place = start + torch.arange(draft)  # (B, K, N) which answer token each draft token stands for
    written, real = a.gather(2, place.clamp(max=a.shape[2] - 1)), place < length
    hide = torch.rand(place.shape, generator=generator) < torch.rand(length.shape, generator=generator)
    hide |= torch.rand(length.shape, generator=generator) < full_probability
    hide[..., :1] = False
    hide |= ~real
    ids = torch.cat([q, a, torch.where(hide, mask_id, written)], 2)  # (B, K, W)
    where = torch.cat([in_q.expand_as(q), turn + in_a, turn + place], 2)  # text position behind the scene
    is_clean = torch.cat([in_q < turn, in_a < length, torch.zeros_like(hide)], 2)
    is_draft = torch.arange(ids.shape[2]).expand_as(ids) >= q.shape[2] + a.shape[2]
    own = _sees(where, is_clean, is_draft, turn + start).flatten(0, 1)[:, None]  # (B K, 1, W, W)
    count, width = ids.shape[1:]
    positions = torch.cat([
        scene_positions[:, None].expand(3, batch, prefix), (where.flatten(1) + begin).expand(3, batch, -1)
    ], 2)  # fmt: skip
    first = prefix + torch.arange(count)[None, :, None] * width  # (1, K, 1) place of each segment in the row
    behind = q.shape[2] + in_a - 1
    return Rows(
        ids=torch.cat([scene, ids.flatten(1)], 1),
        positions=positions,
        prefix=prefix,
        mask=torch.cat([torch.ones(1, dtype=torch.bool).expand(*own.shape[:3], prefix), own], 3),
        clean_predictors=first + torch.where(in_a == 0, turn - 1, behind),
        clean_targets=torch.where((in_a < length) & asked, a, -100),
        draft_predictors=(first + q.shape[2] + a.shape[2] + torch.arange(max(draft - 1, 0))).expand(batch, -1, -1),
        draft_targets=torch.where(hide & real & asked, written, -100)[..., 1:],
    )


def losses(model: VisionLanguageModel, rows: Rows, vision: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy (nats per token) of clean answers and of drafts."""
    hidden = model(model.embed(rows.ids, vision), rows.positions, attend(rows))
    out = []
    for at, target in ((rows.clean_predictors, rows.clean_targets), (rows.draft_predictors, rows.draft_targets)):
        if target.shape[-1] == 0:
            out.append(hidden.new_zeros(()))  # no drafts in these rows
            continue
        logits = model.logits(gathered(hidden, at))
        out.append(F.cross_entropy(logits.flatten(0, -2).float(), target.flatten(), ignore_index=-100))
    return out[0], out[1]


def right(model: VisionLanguageModel, rows: Rows, vision: Tensor) -> Tensor:
    """(B, K) whether greedy AR writes exactly the true answer.

    It does if and only if, given the true tokens so far, the best next token is always the true one.
    """
    hidden = model(model.embed(rows.ids, vision), rows.positions, attend(rows))
    best = model.logits(gathered(hidden, rows.clean_predictors)).argmax(-1)
    return ((best == rows.clean_targets) | (rows.clean_targets < 0)).all(-1)


def attend(rows: Rows) -> Attend:
    """Attention of rows: the scene is causal; a segment's tokens see the scene and what `rows.mask` lets them."""
    prefix, width = rows.prefix, rows.mask.shape[2]
    hidden = ~rows.mask[:, :, None]  # (B K, 1, 1, W, P + W)

    def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads, shared, d = q.shape[1], k.shape[1], q.shape[3]
        groups = heads // shared
        wide_k, wide_v = (x[:, :, :prefix].repeat_interleave(groups, 1) for x in (k, v))
        scene = F.scaled_dot_product_attention(q[:, :, :prefix], wide_k, wide_v, is_causal=True)
        asks, keys, values = (x[:, :, prefix:].unflatten(2, (-1, width)).transpose(1, 2) for x in (q, k, v))
        keys, values = (
            torch.cat([x[:, None, :, :prefix].expand(-1, own.shape[1], -1, -1, -1), own], 3).flatten(0, 1)
            for x, own in ((k, keys), (v, values))
        )  # (B K, Hkv, P + W, D)
        grouped = asks.reshape(-1, shared, groups * width, d) * d**-0.5  # one product serves the heads of a K/V head
        scores = (grouped @ keys.transpose(-1, -2)).unflatten(2, (groups, width)).masked_fill(hidden, -torch.inf)
        out = scores.softmax(-1).to(q.dtype).flatten(2, 3) @ values  # (B K, Hkv, G W, D)
        out = out.reshape(len(q), -1, heads, width, d).transpose(1, 2).flatten(2, 3)  # (B, H, K W, D)
        return torch.cat([scene, out], 2)

    def layer(index: int) -> LayerAttend:
        return one

    return layer


def gathered(hidden: Tensor, at: Tensor) -> Tensor:
    """hidden (B, S, H) at places (B, K, L) -> (B, K, L, H)."""
    batch = len(hidden)
    flat = at.expand(batch, -1, -1).reshape(batch, -1, 1).expand(-1, -1, hidden.shape[-1])
    return hidden.gather(1, flat).unflatten(1, at.shape[-2:])


def _sees(where: Tensor, is_clean: Tensor, is_draft: Tensor, limit: Tensor) -> Tensor:
    """(B, K, W, W) True where the row's token attends to the column's within a segment; inputs (B, K, W).

    Clean tokens are causal.  Draft tokens see each other and the clean ones before `limit` (B, K, 1), where the block
    begins.  Padding sees itself, because a row must see something.
    """
    earlier = torch.where(
        is_draft[..., None], where[..., None, :] < limit[..., None], where[..., None, :] <= where[..., None]
    )
    clean = is_clean[..., None, :] & earlier & (is_clean | is_draft)[..., None]
    block = is_draft[..., None, :] & is_draft[..., None]
    return clean | block | torch.eye(where.shape[-1], dtype=torch.bool)
