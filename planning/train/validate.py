"""Held-out figures of a planner in training: token losses, greedily written trajectories, and how drafts do.

A draft is what scaffold speculation asks for (Fast-dDrive, 2605.23163): a section's block of which only the first token
is known, behind the true answer up to there.  The share of its values that are right is what makes a decoder fast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientgen.perception.patches import patchify
from efficientgen.perception.vision import Grid
from efficientgen.planning.cache import KVCache
from efficientgen.planning.masks import first_of_block, section_turns, training_mask
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.schema import CRITICAL_OBJECTS, SECTIONS, Template
from efficientgen.planning.train.data import DrivingSet
from efficientgen.planning.train.loss import dense_attend


@dataclass(frozen=True)
class Validation:
    """Means over held-out samples; displacement errors of the greedy AR trajectory against the expert's plan, in m."""

    samples: int
    value_loss: float  # nats per value token, teacher-forced
    ade: float
    fde: float
    ade_without_history: float
    object_accuracy: float  # yes/no slots, greedy
    balanced: dict[str, float]  # balanced accuracy of each yes/no slot whose truth holds both answers
    section_loss: dict[str, float]  # nats per value token of each section, teacher-forced
    draft_loss: dict[str, float]  # the same of drafted values
    draft_right: dict[str, float]  # share of drafted values that are the true ones


@torch.no_grad()
def validate(
    model: VisionLanguageModel,
    data: DrivingSet,
    template: Template,
    positions: Tensor,
    grids: tuple[Grid, ...],
    limit: int = 768,
) -> Validation:
    """Validate on at most `limit` held-out samples, evenly spread."""
    rows = torch.nonzero(data.heldout)[:, 0]
    if len(rows) == 0:
        nan = float("nan")
        return Validation(0, nan, nan, nan, nan, nan, {}, {}, {}, {})
    rows = rows[torch.linspace(0, len(rows) - 1, min(limit, len(rows)), device=rows.device).long()]
    prompt, answer = data.prompt[rows].long(), data.answer[rows].long()
    patches = patchify(data.pairs(rows).flatten(0, 1)).unflatten(0, (len(rows), -1)).flatten(1, 2)
    vision = model.see(patches, grids)
    null = model.config.null_token_id
    digits = _numbers(template).to(rows.device)
    greedy, losses = _greedy(model, prompt, vision, positions, template, answer)
    silent = torch.where(torch.isin(prompt, digits), null, prompt)
    blind, _ = _greedy(model, silent, vision, positions, template, answer)
    truth = _waypoints(template, answer)
    error = (_waypoints(template, greedy) - truth).norm(dim=-1)
    hidden, drafted, right = _drafts(model, model.embed(prompt, vision), positions, template, answer)
    values = torch.from_numpy(template.is_value).to(rows.device)
    objects = torch.from_numpy((template.section == SECTIONS.index("critical_objects")) & template.is_value)
    return Validation(
        samples=len(rows),
        value_loss=float(losses[:, values].mean()),
        ade=float(error.mean()),
        fde=float(error[:, -1].mean()),
        ade_without_history=float((_waypoints(template, blind) - truth).norm(dim=-1).mean()),
        object_accuracy=float((greedy[:, objects] == answer[:, objects]).float().mean()),
        balanced=_balanced(template, greedy, answer),
        section_loss=_by_section(template, losses, values),
        draft_loss=_by_section(template, drafted, hidden),
        draft_right=_by_section(template, right, hidden),
    )


def _by_section(template: Template, each: Tensor, where: Tensor) -> dict[str, float]:
    """Means of `each` (B, L) over the positions `where` (L,) of each section that has some."""
    section = torch.from_numpy(template.section).to(each.device)
    chosen = {name: where & (section == k) for k, name in enumerate(SECTIONS)}
    return {name: float(each[:, mask].float().mean()) for name, mask in chosen.items() if mask.any()}


def _drafts(
    model: VisionLanguageModel, embeds: Tensor, positions: Tensor, template: Template, answer: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Every section block drafted at once behind the true answer: which positions (L,) are hidden, and (B, L) their
    losses and whether the best allowed token is the true one.  `embeds` (B, P, hidden) are the prompt's."""
    device, (batch, length), size = answer.device, answer.shape, embeds.shape[1]
    turn = section_turns(template.section, template.is_value, model.config.bd_size)
    hidden = torch.from_numpy(template.is_value & ~first_of_block(turn)).to(device)
    mask = training_mask(size, turn)[: size + 2 * length, : size + 2 * length].to(device)  # without the second copy
    after = torch.arange(length, device=device).expand(3, -1) + positions.max() + 1
    noisy = torch.where(hidden, model.config.mask_token_id, answer)
    row = torch.cat([embeds, model.embed(torch.cat([answer, noisy], 1)).to(embeds.dtype)], 1)
    states = model(row, torch.cat([positions, after, after], 1), dense_attend(mask))
    logits = model.logits(states[:, size + length : -1]).float()  # predict answer tokens 1 .. L - 1
    loss, right = answer.new_zeros(answer.shape, dtype=torch.float32), torch.zeros_like(answer, dtype=torch.bool)
    loss[:, 1:] = F.cross_entropy(logits.flatten(0, 1), answer[:, 1:].flatten(), reduction="none").view(batch, -1)
    allowed = torch.from_numpy(template.allow_lists[template.allow.clip(min=0)[1:]]).to(device)  # (L - 1, V)
    right[:, 1:] = logits.masked_fill(~allowed, -torch.inf).argmax(-1) == answer[:, 1:]
    return hidden, loss, right


def _balanced(template: Template, greedy: Tensor, answer: Tensor) -> dict[str, float]:
    """Mean recall over the answers that each yes/no slot's truth holds, where it holds two."""
    out = {}
    for name, start, _ in template.slots:
        if name in CRITICAL_OBJECTS and len(kinds := answer[:, start].unique()) > 1:
            right = greedy[:, start] == answer[:, start]
            out[name] = float(torch.stack([right[answer[:, start] == kind].float().mean() for kind in kinds]).mean())
    return out


def _numbers(template: Template) -> Tensor:
    """Token ids of signs and digits."""
    rows = {int(template.allow[start]) for name, start, _ in template.slots if name.startswith(("x0", "y0"))}
    return torch.from_numpy(template.allow_lists[sorted(rows)].any(0)).nonzero()[:, 0]


def _greedy(
    model: VisionLanguageModel, prompt: Tensor, vision: Tensor, positions: Tensor, template: Template, answer: Tensor
) -> tuple[Tensor, Tensor]:
    """Batched greedy AR answers (B, L), and the teacher-forced losses (B, L) of `answer`."""
    device, batch, length = prompt.device, len(prompt), len(template)
    allowed = torch.from_numpy(template.allow_lists).to(device)
    embeds = model.embed(prompt, vision)
    after = torch.arange(length, device=device).expand(3, -1) + positions.max() + 1
    cache = KVCache(model.config.text, prompt.shape[1] + length, embeds.dtype, device, batch)
    hidden = model(embeds, positions, cache.append("causal", prompt.shape[1]))[:, -1]
    first_logits, size = model.logits(hidden), cache.length
    states = model(model.embed(answer), after, cache.append("causal", length))
    logits = torch.cat([first_logits[:, None], model.logits(states[:, :-1])], 1)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), answer.flatten(), reduction="none").view(batch, -1)
    cache.length = size
    logits, written = first_logits, []
    for i in range(length):
        if template.scaffold[i] >= 0:
            token = torch.full((batch,), int(template.scaffold[i]), device=device)
        else:
            token = logits.masked_fill(~allowed[template.allow[i]], -torch.inf).argmax(-1)
        written.append(token)
        if i + 1 < length:
            step = model(model.embed(token[:, None]), after[:, i : i + 1], cache.append("causal", 1))
            logits = model.logits(step[:, 0])
    return torch.stack(written, 1), loss


def _waypoints(template: Template, ids: Tensor) -> Tensor:
    """Trajectory of answer tokens (B, L) as (B, T, 2) m, read digit by digit."""
    slots = {name: (start, end) for name, start, end in template.slots}
    digit_row = template.allow_lists[template.allow[slots["x0.int"][0]]]
    sign_row = template.allow_lists[template.allow[slots["x0.sign"][0]]]
    value = torch.zeros(len(digit_row), device=ids.device)
    value[torch.from_numpy(digit_row).nonzero()[:, 0]] = torch.arange(10.0, device=ids.device)
    plus, minus = torch.from_numpy(sign_row).nonzero()[:, 0].tolist()
    sign = torch.zeros(len(sign_row), device=ids.device)
    sign[plus], sign[minus] = 1.0, -1.0
    out = []
    for i in range(len(template.schema.times_s)):
        for axis in "xy":
            digits = [p for part in ("int", "frac") for p in range(*slots[f"{axis}{i}.{part}"])]
            scale = [10.0 ** (template.schema.integers - 1 - k) for k in range(len(digits))]
            number = (value[ids[:, digits]] * torch.tensor(scale, device=ids.device)).sum(1)
            out.append(number * sign[ids[:, slots[f"{axis}{i}.sign"][0]]])
    return torch.stack(out, 1).unflatten(1, (-1, 2))
