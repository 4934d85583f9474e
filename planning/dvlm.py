"""Fast-dVLM: free questions about pictures, answered in text that streams as it is committed (2604.06832).

`DVLM.from_pretrained(directory)` loads a released checkpoint, or the nano one, which is an adapter over nano-ddrive.
`ask` shows it pictures, or what an `Observation` holds, and hands each piece of the answer to a callback as soon as the
decoder has committed it: token by token in AR, an accepted draft at a time in self-speculation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from efficientgen.perception.patches import MERGE, TEMPORAL_PATCH, grid_of, patchify
from efficientgen.perception.resize import RELEASED_PIXELS, resize, smart_size
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import U8, Command, Observation
from efficientgen.planning.adapter import is_adapter, load_adapted
from efficientgen.planning.cache import KVCache
from efficientgen.planning.checkpoint import load_model, read_config
from efficientgen.planning.decode import DECODERS
from efficientgen.planning.decode_form import OPEN, Counts, TextForm
from efficientgen.planning.model import VisionLanguageModel, position_ids
from efficientgen.planning.question_prompt import QuestionError, chat_question, nano_question, nano_scene
from efficientgen.planning.schema import WOD_E2E
from efficientgen.planning.tokenizer import Tokenizer, Vocabulary, load_tokenizer
from efficientgen.planning.views import view_of

CAMERAS = ("FRONT_LEFT", "FRONT", "FRONT_RIGHT")  # the prompt's order
ANSWERERS = ("self-spec", "ar", "fused-self-spec", "diffusion")  # decoders of free text, the default first
NANO_SIZE = (NANO_RIG[0].height, NANO_RIG[0].width)
LONGEST_PROMPT = 4096


class NotAVisionModelError(ValueError):
    """A checkpoint that cannot see, asked about pictures."""


class PictureError(ValueError):
    """Pictures that cannot be shown: too few or many, empty, or not RGB."""


class UnknownAnswererError(ValueError):
    """A decoder that writes no free text, or none at all."""


@dataclass(frozen=True)
class Reply:
    """An answer and what it cost.  `seconds` by stage: vision, prefill, decode; `tokens` counts the end of turn."""

    question: str
    text: str
    tokens: int
    counts: Counts
    decoder: str
    seconds: Mapping[str, float]

    @property
    def tokens_per_forward(self) -> float:
        return self.tokens / max(self.counts.forwards, 1)


class DVLM:
    """A block-diffusion vision-language model at batch 1.

    Args:
        examples: questions that it was taught, for error messages.
        pixels: least and largest picture area, for a model that takes any size.

    Raises:
        NotAVisionModelError: the model has no vision tower.
        UnknownAnswererError: `decoder` is not one of `ANSWERERS`.
    """

    def __init__(self, model: VisionLanguageModel, tokenizer: Vocabulary, decoder: str = ANSWERERS[0],
                 name: str = "dvlm", examples: Sequence[str] = (),
                 pixels: tuple[int, int] = (RELEASED_PIXELS, RELEASED_PIXELS)):  # fmt: skip
        if decoder not in ANSWERERS:
            raise UnknownAnswererError(f"no decoder '{decoder}' for free text; choose one of {', '.join(ANSWERERS)}")
        if model.config.vision is None:
            raise NotAVisionModelError(f"'{name}' is a {model.config.family}, which reads text only")
        self.model, self.tokenizer, self.decoder, self.name = model, tokenizer, decoder, name
        self.examples, self.pixels = tuple(examples), pixels
        self.nano = isinstance(tokenizer, Tokenizer)  # asked in its own words, and shown the nano rig's pictures
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    @staticmethod
    def from_pretrained(directory: str | Path, *, decoder: str = ANSWERERS[0], dtype: torch.dtype = torch.float32,
                        device: str = "cpu", base: Path | None = None) -> DVLM:  # fmt: skip
        """Load a model directory: whole weights in a released layout, or an adapter over a shipped model, or over that
        in `base`.

        Raises:
            CheckpointError, TokenizerError, PictureLimitsError: the directory is incomplete, damaged or does not fit
                its config.
            And those of the class.
        """
        directory = Path(directory)
        config = read_config(directory)
        tokenizer = load_tokenizer(directory)
        pixels = view_of(WOD_E2E.name, directory).pixels or (RELEASED_PIXELS, RELEASED_PIXELS)
        if is_adapter(directory):
            model = load_adapted(directory, dtype, device, base)
        else:
            model = load_model(directory, dtype, device)
        return DVLM(model, tokenizer, decoder, directory.resolve().name, config.get("questions", ()), pixels)

    def ask(
        self,
        pictures: Sequence[U8] | Observation,
        question: str,
        command: Command = Command.GO_STRAIGHT,
        on_text: Callable[[str], None] | None = None,
        max_new_tokens: int = 96,
    ) -> Reply:
        """The answer to one question.

        Args:
            pictures: RGB uint8, (H, W, 3) each, or (2, H, W, 3) with the frame before; the nano model takes the front
                camera alone, or FRONT_LEFT, FRONT, FRONT_RIGHT.  Or an observation, whose command counts then.
            command: the route's, which the nano model is told.
            on_text: called with each new piece of the answer.

        Raises:
            PictureError: there is none, their number does not fit, or one is empty or not RGB.
            QuestionError: the question is empty, too long, or holds words that the nano model does not know.
        """
        t0 = time.perf_counter()
        if isinstance(pictures, Observation):
            command = pictures.command
            pictures = self._of_observation(pictures)
        pairs = self._pairs(pictures)
        grids = tuple(grid_of(*pair.shape[1:3]) for pair in pairs)
        ids = self._prompt([h * w // MERGE**2 for _, h, w in grids], question, command)
        with torch.inference_mode():
            patches = [patchify(torch.from_numpy(pair)[None].to(self.device)) for pair in pairs]
            vision = self.model.see(torch.cat(patches, 1).to(self.dtype), grids)
            t1 = time.perf_counter()
            positions = position_ids(ids, grids, self.model.config).to(self.device)
            config = self.model.config
            width = config.decode_block_size
            cache = KVCache(config.text, len(ids) + max_new_tokens + width, self.dtype, self.device)
            embeds = self.model.embed(torch.tensor([ids], device=self.device), vision)
            hidden = self.model(embeds, positions, cache.append("causal", len(ids)))
            logits = self.model.logits(hidden[0, -1])
            t2 = time.perf_counter()
            stream = _Stream(self.tokenizer, config.im_end_token_id, on_text)
            blank, vocabulary, stop = [OPEN] * max_new_tokens, config.text.vocab_size, config.im_end_token_id
            form = _StreamedForm(blank, width, config.mask_token_id, vocabulary, self.device, stop)
            form.hear = stream.hear
            answer = DECODERS[self.decoder](self.model, cache, form, logits, int(positions.max()) + 1)
        text = stream.finish(answer.ids)
        seconds = {"vision": t1 - t0, "prefill": t2 - t1, "decode": time.perf_counter() - t2}
        return Reply(question, text, len(answer.ids), answer.counts, self.decoder, seconds)

    def _prompt(self, tokens_per_image: list[int], question: str, command: Command) -> list[int]:
        if isinstance(self.tokenizer, Tokenizer):
            ids = nano_scene(self.tokenizer, tokens_per_image, command)
            ids = ids + nano_question(self.tokenizer, question, self.examples[:6])
        else:
            ids = self.tokenizer.encode(chat_question(tokens_per_image, question))
        if len(ids) > LONGEST_PROMPT:
            raise QuestionError(
                f"pictures and question are {len(ids)} tokens, at most {LONGEST_PROMPT}: ask less, or show less"
            )
        return ids

    def _of_observation(self, observation: Observation) -> list[U8]:
        frames = TEMPORAL_PATCH if self.nano else 1
        missing = [name for name in CAMERAS if not observation.cameras.get(name)]
        if missing:
            raise PictureError(f"the observation lacks the cameras {', '.join(missing)}")
        return [np.stack([f.image for f in observation.cameras[name][-frames:]]) for name in CAMERAS]

    def _pairs(self, pictures: Sequence[U8]) -> list[U8]:
        """uint8 (2, H, W, 3) each, in a size that the model takes."""
        if not len(pictures) or self.nano and len(pictures) not in (1, len(CAMERAS)):
            wanted = f"one of the front camera, or {', '.join(CAMERAS)} in this order" if self.nano else "at least one"
            raise PictureError(f"{len(pictures)} pictures: '{self.name}' takes {wanted}")
        out = []
        for i, picture in enumerate(pictures):
            frames = picture[None] if picture.ndim == 3 else picture
            if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
                raise PictureError(f"picture {i + 1} is {picture.dtype} {picture.shape}, not RGB uint8 (H, W, 3)")
            sized = [self._sized(frame) for frame in frames[-TEMPORAL_PATCH:]]
            out.append(np.stack(sized if len(sized) == TEMPORAL_PATCH else sized * TEMPORAL_PATCH))
        return out

    def _sized(self, image: U8) -> U8:
        height, width = image.shape[:2]
        if not self.nano:
            return resize(image, *smart_size(height, width, *self.pixels))
        if (height, width) == NANO_SIZE:
            return image
        fitted = ImageOps.fit(
            Image.fromarray(image), NANO_SIZE[::-1], Image.Resampling.BICUBIC
        )  # the middle, uncut wide
        return np.asarray(fitted)


class _StreamedForm(TextForm):
    """A text form that tells what has been committed: decoders ask `complete` after every commit."""

    hear: Callable[[list[int]], None]

    def complete(self, ids: list[int]) -> bool:
        self.hear(ids)
        return super().complete(ids)


class _Stream:
    """Committed tokens to pieces of text; a character whose bytes are not all there yet waits."""

    def __init__(self, tokenizer: Vocabulary, stop: int, on_text: Callable[[str], None] | None):
        self.tokenizer, self.stop, self.on_text, self.sent = tokenizer, stop, on_text, ""

    def hear(self, ids: list[int], last: bool = False) -> None:
        if self.stop in ids:
            ids = ids[: ids.index(self.stop)]
        text = self.tokenizer.decode(ids)
        if not last:
            text = text.rstrip("\ufffd")
        if text.startswith(self.sent) and text != self.sent:
            if self.on_text is not None:
                self.on_text(text[len(self.sent) :])
            self.sent = text

    def finish(self, ids: list[int]) -> str:
        """The whole text; what is left of it is handed on."""
        self.hear(ids, last=True)
        return self.sent
