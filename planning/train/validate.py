"""Held-out figures of a planner in training: token loss, and the error of greedily written trajectories."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientgen.perception.patches import patchify
from efficientgen.perception.vision import Grid
from efficientgen.planning.cache import KVCache
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.schema import CRITICAL_OBJECTS, SECTIONS, Template
from efficientgen.planning.train.data import DrivingSet


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
        return Validation(0, nan, nan, nan, nan, nan, {})
    rows = rows[torch.linspace(0, len(rows) - 1, min(limit, len(rows)), device=rows.device).long()]
    prompt, answer = data.prompt[rows].long(), data.answer[rows].long()
    patches = patchify(data.pairs(rows).flatten(0, 1)).unflatten(0, (len(rows), -1)).flatten(1, 2)
    vision = model.see(patches, grids)
    null = model.config.null_token_id
    digits = _numbers(template).to(rows.device)
    greedy, loss = _greedy(model, prompt, vision, positions, template, answer)
    silent = torch.where(torch.isin(prompt, digits), null, prompt)
    blind, _ = _greedy(model, silent, vision, positions, template, answer)
    truth = _waypoints(template, answer)
    error = (_waypoints(template, greedy) - truth).norm(dim=-1)
    objects = torch.from_numpy((template.section == SECTIONS.index("critical_objects")) & template.is_value)
    return Validation(
        samples=len(rows),
        value_loss=float(loss),
        ade=float(error.mean()),
        fde=float(error[:, -1].mean()),
        ade_without_history=float((_waypoints(template, blind) - truth).norm(dim=-1).mean()),
        object_accuracy=float((greedy[:, objects] == answer[:, objects]).float().mean()),
        balanced=_balanced(template, greedy, answer),
    )


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
    """Batched greedy AR answers (B, L), and the teacher-forced loss of `answer` per value token."""
    device, batch, length = prompt.device, len(prompt), len(template)
    allowed = torch.from_numpy(template.allow_lists).to(device)
    embeds = model.embed(prompt, vision)
    after = torch.arange(length, device=device).expand(3, -1) + positions.max() + 1
    cache = KVCache(model.config.text, prompt.shape[1] + length, embeds.dtype, device, batch)
    hidden = model(embeds, positions, cache.append("causal", prompt.shape[1]))[:, -1]
    first_logits, size = model.logits(hidden), cache.length
    states = model(model.embed(answer), after, cache.append("causal", length))
    logits = torch.cat([first_logits[:, None], model.logits(states[:, :-1])], 1)
    values = torch.from_numpy(template.is_value).to(device)
    loss = F.cross_entropy(logits[:, values].flatten(0, 1).float(), answer[:, values].flatten())
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
