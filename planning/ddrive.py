"""Fast-dDrive as a planner: cameras and ego history in, a structured answer and its trajectory out (2605.23163).

`DDrive.from_pretrained(directory)` loads a model directory; `plan` runs vision, prefill and decode on one observation
and times each.  The class holds what is static between plans: weights, template, K/V cache, prompt positions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from efficientgen.perception.health import require_readable
from efficientgen.perception.patches import MERGE, ImageSizeError, grid_of, patchify
from efficientgen.perception.types import DecodeStats, Observation, Plan
from efficientgen.perception.vision import Grid
from efficientgen.planning.accelerated import Accelerated
from efficientgen.planning.cache import KVCache, TextCache
from efficientgen.planning.checkpoint import CheckpointError, load_model, read_config
from efficientgen.planning.config import ModelConfig
from efficientgen.planning.decode import DECODERS, Answer, Counts, TemplateOnDevice
from efficientgen.planning.drive_prompt import DrivePrompt, default_prompt, drive_prompt_ids, load_prompt
from efficientgen.planning.model import VisionLanguageModel, lay_out_for_cpu, position_ids
from efficientgen.planning.prompt import ego_numbers, prompt_ids
from efficientgen.planning.rollouts import decode_rollouts, gumbel_noise, read_rollouts, trajectory_tokens
from efficientgen.planning.schema import SECTIONS, WOD_E2E, compile_template
from efficientgen.planning.stage_clock import StageClock
from efficientgen.planning.tokenizer import (
    END_OF_TEXT,
    IM_END,
    IMAGE_PAD,
    MASK,
    NULL,
    VISION_START,
    Vocabulary,
    load_tokenizer,
)
from efficientgen.planning.views import (
    VIEWS,
    UnknownSchemaError,
    View,
    patches_on,
    pictures,
    required,
    shortfall,
    view_of,
)

CAMERAS = ("FRONT_LEFT", "FRONT", "FRONT_RIGHT")  # WOD-E2E order
TOKEN_BUDGET = 4096  # prompt and answer; the releases were trained on 2048


class UnknownDecoderError(ValueError):
    """A decoder name that `DECODERS` does not have."""


class NotAPlannerError(ValueError):
    """A model without eyes, asked to drive."""


class PromptTooLongError(ValueError):
    """Prompt and answer exceed the token budget."""


class DDrive:
    """A block-diffusion vision-language-action planner at batch 1.

    Args:
        view: what it looks at and the answer that it writes; by default that of the model's schema, and for a model
            that has none (Fast-dVLM) the WOD-E2E one.
        prompt: how a released planner is asked; nano has a form of its own.
        max_tokens: of prompt and answer together.

    Raises:
        NotAPlannerError: the model has no vision tower.
        UnknownSchemaError: the model's schema is not known.
        UnknownDecoderError: `decoder` is not one of `DECODERS`.
        TokenizerError, CheckpointError: the vocabulary does not fit the model.
    """

    def __init__(self, model: VisionLanguageModel, tokenizer: Vocabulary, decoder: str = "scaffold-spec",
                 use_history: bool = True, name: str = "ddrive", rollouts: int = 1, temperature: float = 0.5,
                 view: View | None = None, prompt: DrivePrompt | None = None,
                 max_tokens: int = TOKEN_BUDGET):  # fmt: skip
        self.name, self.rollouts, self.temperature, self._seed = name, rollouts, temperature, 0
        if rollouts < 1 or rollouts > 1 and decoder != "scaffold-spec":
            raise UnknownDecoderError(
                f"{rollouts} rollouts with decoder '{decoder}': at least 1, and several need scaffold-spec"
            )
        if decoder not in DECODERS:
            raise UnknownDecoderError(f"no decoder '{decoder}'; choose one of {', '.join(DECODERS)}")
        config = model.config
        if config.vision is None:
            raise NotAPlannerError(f"'{name}' is a {config.family}, which reads text only and sees no road")
        self.model, self.tokenizer, self.decoder, self.use_history = model, tokenizer, decoder, use_history
        self.view = view or view_of(_schema_name(config))
        self.frames_per_camera, self.max_tokens = self.view.frames, max_tokens
        self.prompt = None if self.view.paired else prompt or default_prompt(self.view.schema)
        _check_ids(tokenizer, config)
        filler = NULL if config.schema else END_OF_TEXT  # without a schema it was never trained with NULL
        self.template = compile_template(
            self.view.schema, tokenizer, config.bd_size, config.text.vocab_size, filler
        )  # fmt: skip
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self._template = TemplateOnDevice(self.template, self.device)
        self._cache: KVCache | None = None
        self.engine: Accelerated | None = None
        self.options: dict[str, Any] = {}  # more keywords for the decoder, for instance `width` of a fused one

    def accelerate(self, ours: bool = True) -> None:
        """Plan through captured graphs and our kernels from now on; takes a copy of the weights and some seconds.

        The answers are the model's own but for rounding.
        """
        room = self.max_tokens + (len(self.template) + 64) * (self.rollouts if self.rollouts > 1 else 1)
        self.engine = Accelerated(self.model, room, ours=ours)

    @staticmethod
    def from_pretrained(directory: str | Path, *, decoder: str = "scaffold-spec", dtype: torch.dtype = torch.float32,
                        device: str = "cpu", use_history: bool = True, rollouts: int = 1, temperature: float = 0.5,
                        schema: str = "", max_tokens: int = TOKEN_BUDGET,
                        engine: bool | None = None) -> DDrive:  # fmt: skip
        """Load a model directory: nano's own, or one in a released layout of Fast-dDrive or Fast-dVLM.

        Args:
            rollouts: trajectories sampled at `temperature` and averaged for each plan; 1 is the greedy one.
            schema: the answer to ask for ("wod-e2e", "nuscenes"), where the config's is not the one.
            engine: plan through captured graphs (`accelerate`); by default where there is a CUDA device.

        Raises:
            CheckpointError: the directory is incomplete, damaged or does not fit its config.
            TokenizerError, PromptError, PictureLimitsError: so are the files beside the weights.
            And those of the class.
        """
        directory = Path(directory)
        held = read_config(directory)
        tokenizer = load_tokenizer(directory)  # what costs nothing first, the gigabytes last
        view = view_of(schema, directory) if schema else None
        model = load_model(directory, dtype, device)
        if torch.device(device).type == "cpu":
            lay_out_for_cpu(model)
        view = view or view_of(_schema_name(model.config), directory)
        prompt = None if view.paired else load_prompt(directory, held, view.schema)
        name = directory.resolve().name
        planner = DDrive(model, tokenizer, decoder, use_history, name, rollouts, temperature, view, prompt, max_tokens)
        if engine or engine is None and planner.device.type == "cuda":
            planner.accelerate()
        return planner

    def reset(self, seed: int) -> None:
        """The seed of the rollouts; nothing else is carried from plan to plan, and greedy decoding draws nothing."""
        self._seed = seed

    def inputs(self, observation: Observation) -> tuple[torch.Tensor, tuple[Grid, ...], list[int]]:
        """Patch vectors (1, N, 1176), one grid per picture, and the prompt's token ids.

        Raises:
            UnfitObservationError: a picture, calibration or history that no model can read.
            ImageSizeError: pictures of a size that the planner cannot take.
            PromptTooLongError: prompt and answer exceed `max_tokens`.
        """
        require_readable(observation, required(self.view, observation))
        if self.device.type == "cpu":
            images = pictures(self.view, observation)
            grids = tuple(grid_of(*image.shape[1:3]) for image in images)
            patches = torch.cat([patchify(torch.from_numpy(image)[None]) for image in images], 1)
        else:
            patches, grids = patches_on(self.view, observation, self.device)
        ids = self._prompt_ids(observation, [h * w // MERGE**2 for _, h, w in grids])
        if len(ids) + len(self.template) > self.max_tokens:
            raise PromptTooLongError(
                f"a prompt of {len(ids)} tokens and an answer of {len(self.template)} exceed the budget of "
                f"{self.max_tokens}: shorten prompt.txt, lower max_pixels in preprocessor_config.json, or raise "
                "max_tokens"
            )
        return patches.to(self.dtype), grids, ids  # (1, sum of h w, 1176)

    def _prompt_ids(self, observation: Observation, tokens: list[int]) -> list[int]:
        if self.prompt is not None:
            history = observation.history if self.use_history else None
            return drive_prompt_ids(self.prompt, self.tokenizer, tokens, observation.command, history)
        if len(set(tokens)) > 1:
            raise ImageSizeError("the cameras give pictures of different sizes, this planner needs one size for all")
        ego = ego_numbers(observation.history)
        return prompt_ids(self.tokenizer, len(tokens), tokens[0], observation.command, ego, self.use_history)

    def answer(self, observation: Observation) -> tuple[Answer, dict[str, float]]:
        """The greedy answer's tokens and the wall seconds of each stage."""
        answers, counts, seconds = self._answers(observation, 1)
        return answers[0], seconds

    @torch.inference_mode()
    def _answers(self, observation: Observation, rollouts: int) -> tuple[list[Answer], Counts, dict[str, float]]:
        clock = StageClock(self.device)
        patches, grids, ids = self.inputs(observation)
        vision = (self.engine or self.model).see(patches, grids)
        positions = position_ids(ids, grids, self.model.config)
        begin = int(positions.max()) + 1
        clock.mark("vision")
        cache, hidden = self._prefill(ids, vision, positions.to(self.device))
        logits = self.model.logits(hidden)
        clock.mark("prefill")
        if rollouts == 1:
            answer = DECODERS[self.decoder](self.model, cache, self._template, logits, begin, **self.options)
            answers, counts = [answer], answer.counts
        else:
            steps = int((self.template.section == SECTIONS.index("trajectory")).sum())
            vocabulary = self.model.config.text.vocab_size
            tokens = trajectory_tokens(self.template)
            noise = gumbel_noise(self._seed, observation.stamp_ns, rollouts, steps, vocabulary, tokens)
            answers, counts = decode_rollouts(
                self.model, cache, self._template, logits, begin, noise, self.temperature, tokens, **self.options
            )
        clock.mark("decode")
        return answers, counts, clock.seconds()

    def _prefill(self, ids: list[int], vision: torch.Tensor, positions: torch.Tensor) -> tuple[TextCache, torch.Tensor]:
        """A cache that holds the prompt, and the hidden state of its last token."""
        if self.engine is not None:
            self.engine.text.prepare(len(ids), len(ids) + len(self.template))  # captures in the first plan only
            return self.engine.prefill(ids, vision, positions)
        cache = self._fresh_cache(len(ids))
        embeds = self.model.embed(torch.tensor([ids], device=self.device), vision)
        return cache, self.model(embeds, positions, cache.append("causal", len(ids)))[0, -1]

    def plan(self, observation: Observation) -> Plan:
        """One plan: the greedy trajectory, or the mean of the rollouts with their spread.

        A rollout without a trajectory is left out of the mean and counted in `stats.rejected`.

        Raises:
            AnswerError: no answer holds one (the allow-lists make that impossible for a sound checkpoint).
            And those of `inputs`.
        """
        answers, counts, seconds = self._answers(observation, self.rollouts)
        read = read_rollouts(self.template, self.tokenizer, answers)
        paths = np.array([sections["trajectory"] for _, sections in read.valid], np.float64)  # (N, T, 2)
        text, sections = read.valid[0]
        mean = paths.mean(0)
        how = "torch" if self.engine is None else "graphs"
        stats = DecodeStats(
            decoder=self.decoder,
            engine=f"{how}-{self.device.type}-{str(self.dtype).removeprefix('torch.')}",
            forwards=counts.forwards,
            cycles=counts.cycles,
            drafted=counts.drafted,
            accepted=counts.accepted,
            value_tokens=counts.values,
            rejected=read.rejected,
            seconds=seconds,
            note=shortfall(self.view, observation),
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


def _schema_name(config: ModelConfig) -> str:
    """Raises:
    UnknownSchemaError: the model names no answer, and is not the one that can be asked for any.
    """
    if config.schema is None and config.family != "fast-dvlm":
        raise UnknownSchemaError(f"the model names no answer schema; give one of {', '.join(VIEWS)}")
    return config.schema or WOD_E2E.name


def _check_ids(tokenizer: Vocabulary, config: ModelConfig) -> None:
    """Raises:
    CheckpointError: the tokenizer and the config disagree about a special token.
    """
    wanted = {MASK: config.mask_token_id, IMAGE_PAD: config.image_token_id, VISION_START: config.vision_start_token_id,
              IM_END: config.im_end_token_id}  # fmt: skip
    if config.schema:
        wanted[NULL] = config.null_token_id
    for token, i in wanted.items():
        if tokenizer.id_of(token) != i:
            raise CheckpointError(
                f"{token} is {tokenizer.id_of(token)} in the vocabulary, {i} in config.json: take both from one release"
            )
