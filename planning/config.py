"""Four block-diffusion models as configurations of one class: Fast-dDrive, Fast-dVLM, Fast-dLLM v2, Efficient-DLM.

The papers change neither layers nor parameters of their autoregressive parents (Qwen2.5-VL, Qwen2.5, Qwen3).  What sets
them apart is data: whether a token is predicted from the position before it, what a clean token may see, how tokens are
masked in training, and how large a block is.  Defaults are the releases' values (2605.23163, 2604.06832, 2509.26328,
2512.14067); a `config.json` overrides every one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from efficientgen.perception.vision import VisionConfig

Family = Literal["fast-ddrive", "fast-dvlm", "fast-dllm-v2", "efficient-dlm"]
CleanContext = Literal["token", "block"]
NoiseKind = Literal["uniform", "beta-per-section", "position-dependent"]


@dataclass(frozen=True)
class TextConfig:
    """Shape of the decoder; the defaults are Qwen2.5-VL-3B's."""

    hidden_size: int = 2048
    intermediate_size: int = 11008
    num_hidden_layers: int = 36
    num_attention_heads: int = 16
    num_key_value_heads: int = 2
    vocab_size: int = 151936
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    mrope_section: tuple[int, int, int] | None = (16, 24, 24)  # None: plain RoPE, of the first of the three axes
    tie_word_embeddings: bool = True
    qkv_bias: bool = True  # Qwen2.5 has it, Qwen3 has not
    qk_norm: bool = False  # RMSNorm of every head's q and k before RoPE (Qwen3)
    explicit_head_dim: int | None = None  # Qwen3 states it; None: hidden_size / num_attention_heads

    @property
    def head_dim(self) -> int:
        return self.explicit_head_dim or self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class NoiseSchedule:
    """How training masks the tokens of a block, as data.

    uniform: t ~ U(0, 1) per block, each token masked with probability (1 - floor) t + floor (2509.26328).
    beta-per-section: the same with t ~ Beta(alpha, beta) of the token's section (2605.23163, section 3.2).
    position-dependent: t ~ U(0, 1), round(t B) masks drawn without replacement with log-weights w (1 - t) i of the i-th
    token, w = ln 2 / (half_life B): later tokens are masked more often (2512.14067, section 3).
    """

    kind: NoiseKind = "uniform"
    beta: tuple[tuple[float, float], ...] = ()  # (alpha, beta) in the order of the schema's sections
    half_life: float = 0.0  # lambda, as a share of the block
    floor: float = 1e-3


SECTION_NOISE = NoiseSchedule("beta-per-section", ((1.0, 2.0), (1.0, 1.0), (1.0, 1.5), (2.0, 1.0)))


@dataclass(frozen=True)
class ModelConfig:
    """One block-diffusion model; the defaults are Fast-dDrive's."""

    text: TextConfig = field(default_factory=TextConfig)
    vision: VisionConfig | None = field(default_factory=VisionConfig)  # None: a text-only model
    family: Family = "fast-ddrive"
    bd_size: int = 32  # value tokens in a diffusion block of training
    decode_block_size: int = 32  # tokens that a decoder drafts at once
    sub_block_size: int = (
        32  # tokens of a block that are unmasked before the next ones; as large as the block: no parts
    )
    token_shift: int = 1  # 1: the hidden state at p - 1 predicts the token at p, masked or not; 0: the state at p
    # What a clean token sees. "token": itself and what is before it; blocks start anew with each response.
    # "block": its whole block as well; blocks lie on the grid index // bd_size, prompt included.
    clean_context: CleanContext = "token"
    noise: NoiseSchedule = SECTION_NOISE
    mask_token_id: int = 151665
    null_token_id: int = 151666  # fills short values of a schema
    image_token_id: int = 151655
    vision_start_token_id: int = 151652
    im_end_token_id: int = 151645
    schema: str | None = "wod-e2e"  # name of the structured answer; None: free text


QWEN25_1_5B = TextConfig(1536, 8960, 28, 12, 2, mrope_section=None)
QWEN25_7B = TextConfig(3584, 18944, 28, 28, 4, 152064, mrope_section=None, tie_word_embeddings=False)
QWEN3_4B = TextConfig(
    2560, 9728, 36, 32, 8, mrope_section=None, qkv_bias=False, qk_norm=True, explicit_head_dim=128
)  # fmt: skip
QWEN3_8B = TextConfig(
    4096, 12288, 36, 32, 8, mrope_section=None, tie_word_embeddings=False, qkv_bias=False, qk_norm=True,
    explicit_head_dim=128,
)  # fmt: skip


def fast_ddrive() -> ModelConfig:
    """Fast-dDrive-3B (2605.23163): sectioned, scaffolded answers over Qwen2.5-VL-3B."""
    return ModelConfig()


def fast_dvlm() -> ModelConfig:
    """Fast-dVLM-3B (2604.06832): free text over images; sub-blocks of 8 in block diffusion."""
    return ModelConfig(family="fast-dvlm", sub_block_size=8, noise=NoiseSchedule(), schema=None)


def fast_dllm_v2(size: Literal["1.5b", "7b"] = "7b") -> ModelConfig:
    """Fast-dLLM v2 (2509.26328): text, block-causal clean context, over Qwen2.5."""
    return ModelConfig(
        text={"1.5b": QWEN25_1_5B, "7b": QWEN25_7B}[size],
        vision=None,
        family="fast-dllm-v2",
        sub_block_size=8,
        clean_context="block",
        noise=NoiseSchedule(),
        schema=None,
    )


def efficient_dlm(size: Literal["1.5b", "4b", "8b"] = "8b") -> ModelConfig:
    """Efficient-DLM (2512.14067): text, no token shift, position-dependent masking; Qwen3, and Qwen2.5 at 1.5B.

    It is trained with blocks of 64 (1.5B: 16) and decodes with 32 (16).  The mask token is our choice, `<|fim_pad|>`:
    151665 is a word of Qwen3's vocabulary.  A release's `config.json` states its own.
    """
    block, decoded = (16, 16) if size == "1.5b" else (64, 32)
    return ModelConfig(
        text={"1.5b": QWEN25_1_5B, "4b": QWEN3_4B, "8b": QWEN3_8B}[size],
        vision=None,
        family="efficient-dlm",
        bd_size=block,
        decode_block_size=decoded,
        sub_block_size=decoded,
        token_shift=0,
        clean_context="block",
        noise=NoiseSchedule("position-dependent", half_life=0.1),
        mask_token_id=151662,
        schema=None,
    )
