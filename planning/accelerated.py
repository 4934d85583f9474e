"""A planner's model made fast on its device: vision tower and text tower as captured graphs, tuned at load.

What a `DDrive` calls instead of the model itself: `see`, and `prefill`, whose cache the decoders then read through.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efficientgen.perception.vision import Grid
from efficientgen.perception.vision_engine import VisionEngine
from efficientgen.planning.engine import ROWS, Engine, EngineCache
from efficientgen.planning.engine_file import key_of, tuned
from efficientgen.planning.engine_layers import Choices
from efficientgen.planning.engine_tune import Measured, choose
from efficientgen.planning.model import VisionLanguageModel


class Accelerated:
    """Vision and text engine over the weights of `model`; fused copies, so the model is needed for little else.

    Args:
        capacity: tokens of prompt and answer, drafts and private tails of rollouts included.
        ours: measure our kernels against the library's products; without it, the library's alone.

    What was measured is kept in the user's cache directory (`engine_file`) and taken from there the next time.
    """

    def __init__(self, model: VisionLanguageModel, capacity: int, *, ours: bool = True, graphs: bool | None = None):
        self.model = model
        self.vision = VisionEngine(model.model.visual, graphs) if model.config.vision is not None else None
        self.text = Engine(model, capacity, graphs=graphs)
        self.measured: list[Measured] = []
        if self.text.device.type == "cuda":

            def measure() -> Choices:
                choices, self.measured = choose(self.text, ROWS, libraries_only=not ours)
                return choices

            self.text.adopt(tuned(key_of(self.text, ours), measure))

    @torch.inference_mode()
    def see(self, patches: Tensor, grids: tuple[Grid, ...]) -> Tensor:
        """`VisionLanguageModel.see` at batch 1."""
        assert self.vision is not None, "a text model sees nothing"
        return self.vision.see(patches, grids)

    @torch.inference_mode()
    def prefill(self, ids: list[int], vision: Tensor, positions: Tensor) -> tuple[EngineCache, Tensor]:
        """A cache that holds the prompt `ids` with its pictures' tokens (1, V, H), and its last hidden state (H,)."""
        tokens = torch.tensor([ids], device=self.text.device)
        return self.text.prefill(ids, self.model.embed(tokens, vision)[0], positions)
