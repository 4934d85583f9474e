"""Fast-dDrive as a planner: cameras and ego history in, a structured answer and its trajectory out (2605.23163).

`DDrive.from_pretrained(directory)` loads a model directory; `plan` runs vision, prefill and decode on one observation
and times each.  The class holds what is static between plans: weights, template, K/V cache, prompt positions.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from efficientgen.perception.patches import TEMPORAL_PATCH, grid_of, patchify
from efficientgen.perception.types import DecodeStats, Observation, Plan
from efficientgen.perception.vision import Grid
from efficientgen.planning.cache import KVCache
from efficientgen.planning.checkpoint import load_model
from efficientgen.planning.decode import DECODERS, Answer, Counts, TemplateOnDevice
from efficientgen.planning.model import VisionLanguageModel, position_ids
from efficientgen.planning.prompt import ego_numbers, prompt_ids
from efficientgen.planning.rollouts import decode_rollouts, gumbel_noise
from efficientgen.planning.schema import SCHEMAS, SECTIONS, AnswerError, compile_template, decode_answer
from efficientgen.planning.tokenizer import Tokenizer

CAMERAS = ("FRONT_LEFT", "FRONT", "FRONT_RIGHT")  # WOD-E2E order


class UnknownDecoderError(ValueError):
    """A decoder name that `DECODERS` does not have."""


class UnknownSchemaError(ValueError):
    """A model whose `schema` `SCHEMAS` does not have; text-only and question models have none."""


class DDrive:
    """A block-diffusion vision-language-action planner at batch 1."""

    frames_per_camera = TEMPORAL_PATCH

    def __init__(self, model: VisionLanguageModel, tokenizer: Tokenizer, decoder: str = "scaffold-spec",
                 use_history: bool = True, name: str = "ddrive", rollouts: int = 1,
                 temperature: float = 0.5):  # fmt: skip
        self.name, self.rollouts, self.temperature, self._seed = name, rollouts, temperature, 0
        if rollouts < 1 or rollouts > 1 and decoder != "scaffold-spec":
            raise ValueError(
                f"{rollouts} rollouts with decoder '{decoder}': at least 1, and several need scaffold-spec"
            )
        if decoder not in DECODERS:
            raise UnknownDecoderError(f"no decoder '{decoder}'; choose one of {', '.join(DECODERS)}")
        self.model, self.tokenizer, self.decoder, self.use_history = model, tokenizer, decoder, use_history
        if model.config.schema not in SCHEMAS:
            raise UnknownSchemaError(f"no answer schema '{model.config.schema}'; known are {', '.join(SCHEMAS)}")
        self.template = compile_template(SCHEMAS[model.config.schema], tokenizer, model.config.bd_size)
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._template = TemplateOnDevice(self.template, self.device)
        self._cache: KVCache | None = None

    @staticmethod
    def from_pretrained(directory: str | Path, *, decoder: str = "scaffold-spec", dtype: torch.dtype = torch.float32,
                        device: str = "cpu", use_history: bool = True, rollouts: int = 1,
                        temperature: float = 0.5) -> DDrive:  # fmt: skip
        """Load a model directory.

        Args:
            rollouts: trajectories sampled at `temperature` and averaged for each plan; 1 is the greedy one.

        Raises:
            CheckpointError: the directory is incomplete, damaged or does not fit its config.
            UnknownDecoderError: `decoder` is not one of `DECODERS`.
        """
        directory = Path(directory)
        model = load_model(directory, dtype, device)
        name = directory.resolve().name
        return DDrive(model, Tokenizer.load(directory), decoder, use_history, name, rollouts, temperature)

    def reset(self, seed: int) -> None:
        """The seed of the rollouts; nothing else is carried from plan to plan, and greedy decoding draws nothing."""
        self._seed = seed

    def inputs(self, observation: Observation) -> tuple[torch.Tensor, tuple[Grid, ...], list[int]]:
        """Patch vectors (1, N, 1176), one grid per camera, and the prompt's token ids."""
        pairs = []
        for name in CAMERAS:
            frames = observation.cameras[name][-TEMPORAL_PATCH:]
            pairs.append(np.stack([f.image for f in (frames if len(frames) == TEMPORAL_PATCH else frames * 2)]))
        images = torch.from_numpy(np.stack(pairs)).to(self.device)  # (3, 2, H, W, 3)
        grid = grid_of(*images.shape[2:4])
        patches = patchify(images).to(self.dtype).flatten(0, 1)[None]  # (1, 3 h w, 1176)
        per_image = grid[1] * grid[2] // 4
        numbers = ego_numbers(observation.history)
        ids = prompt_ids(self.tokenizer, len(CAMERAS), per_image, observation.command, numbers, self.use_history)
        return patches, (grid,) * len(CAMERAS), ids

    def answer(self, observation: Observation) -> tuple[Answer, dict[str, float]]:
        """The greedy answer's tokens and the wall seconds of each stage."""
        answers, counts, seconds = self._answers(observation, 1)
        return answers[0], seconds

    @torch.inference_mode()
    def _answers(self, observation: Observation, rollouts: int) -> tuple[list[Answer], Counts, dict[str, float]]:
        t0 = time.perf_counter()
        patches, grids, ids = self.inputs(observation)
        vision = self.model.see(patches, grids)
        t1 = time.perf_counter()
        positions = position_ids(ids, grids, self.model.config).to(self.device)
        cache = self._fresh_cache(len(ids))
        embeds = self.model.embed(torch.tensor([ids], device=self.device), vision)
        hidden = self.model(embeds, positions, cache.append("causal", len(ids)))
        logits = self.model.logits(hidden[0, -1])
        t2 = time.perf_counter()
        begin = int(positions.max()) + 1
        if rollouts == 1:
            answer = DECODERS[self.decoder](self.model, cache, self._template, logits, begin)
            answers, counts = [answer], answer.counts
        else:
            steps = int((self.template.section == SECTIONS.index("trajectory")).sum())
            vocabulary = self.model.config.text.vocab_size
            noise = gumbel_noise(self._seed, observation.stamp_ns, rollouts, steps, vocabulary)
            answers, counts = decode_rollouts(self.model, cache, self._template, logits, begin, noise, self.temperature)
        t3 = time.perf_counter()
        return answers, counts, {"vision": t1 - t0, "prefill": t2 - t1, "decode": t3 - t2}

    def plan(self, observation: Observation) -> Plan:
        """One plan: the greedy trajectory, or the mean of the rollouts with their spread.

        A rollout without a trajectory is left out of the mean.

        Raises:
            AnswerError: no answer holds a trajectory (the allow-lists make that impossible for a sound checkpoint).
        """
        answers, counts, seconds = self._answers(observation, self.rollouts)
        read: list[tuple[str, dict[str, Any]]] = []
        for answer in answers:
            try:
                read.append(decode_answer(self.template, self.tokenizer, answer.ids))
            except AnswerError:
                if answer is answers[-1] and not read:
                    raise
        paths = np.array([sections["trajectory"] for _, sections in read], np.float64)  # (N, T, 2)
        text, sections = read[0]
        mean = paths.mean(0)
        stats = DecodeStats(
            decoder=self.decoder,
            engine=f"torch-{self.device.type}-{str(self.dtype).removeprefix('torch.')}",
            forwards=counts.forwards,
            cycles=counts.cycles,
            drafted=counts.drafted,
            accepted=counts.accepted,
            value_tokens=counts.values,
            seconds=seconds,
        )
        several = len(paths) > 1
        return Plan(
            stamp_ns=observation.stamp_ns,
            waypoints=mean,
            times_s=np.array(self.template.schema.times_s),
            sections=sections | {"trajectory": mean.tolist()},
            text=text,
            rollouts=paths if several else np.zeros((0, 0, 2)),
            spread_m=np.sqrt(paths.var(0).sum(-1)) if several else np.zeros(0),
            stats=stats,
        )

    def _fresh_cache(self, prompt: int) -> KVCache:
        capacity = prompt + len(self.template) + 1
        if self._cache is None or self._cache.capacity < capacity:
            self._cache = KVCache(self.model.config.text, capacity, self.dtype, self.device)
        self._cache.length = 0
        return self._cache
