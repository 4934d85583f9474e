"""The losslessness matrix: decoder x model x dtype, each compared with its stated reference on fresh random prompts.

References run on stock transformers in float64, uncached (`eval/stock.py`), with the weights as the decoder has them.
The AR family is compared with greedy AR, block diffusion with its own definition.  In float64 every token must agree.
In float32 and bf16 a token may differ where two logits, or a probability and the threshold, nearly tie: the largest gap
at a difference says how near, and a row for stock transformers in the same dtype says what is the dtype's own doing.

At released shape what a decoder costs is the point (`costs`, `eval/full_size.py`); there the AR family is compared with
our own AR of the same dtype.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from efficientgen.eval.random_models import Subject
from efficientgen.eval.stock import Agreement, Prefix, Stock, autoregressive_choices, rounding, uncached_diffusion
from efficientgen.planning.cache import KVCache
from efficientgen.planning.decode import DECODERS, NOT_AUTOREGRESSIVE, Answer, Counts, Form, TemplateOnDevice, TextForm
from efficientgen.planning.decode_diffusion import CONFIDENCE, Pass
from efficientgen.planning.decode_form import OPEN, runner
from efficientgen.planning.decode_text import read
from efficientgen.planning.model import VisionLanguageModel, position_ids
from efficientgen.planning.schema import AnswerError, Template, decode_answer
from efficientgen.planning.tokenizer import Vocabulary

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}
AR = "greedy AR of stock transformers, uncached, float64"
DIFFUSION = "block diffusion without a cache on stock transformers, float64"
STOCK = "(stock itself)"  # in place of a decoder: what the dtype alone changes
OWN_AR = "our AR, same dtype"


@dataclass(frozen=True)
class Prompted:
    """A prompt that has been read, for any number of decodes: what a decoder is called with, and the tokens read."""

    model: VisionLanguageModel
    cache: KVCache
    form: Form
    logits: Tensor
    next_position: int
    held: list[int]
    patches: Tensor | None

    @torch.inference_mode()
    def decode(self, decoder: str, **options: Any) -> Answer:
        self.cache.length = len(self.held)
        return DECODERS[decoder](self.model, self.cache, self.form, self.logits, self.next_position, **options)


@dataclass
class Row:
    """One cell of the matrix; counts are sums over prompts.  `agreed` of `tokens` are the reference's."""

    model: str
    decoder: str
    dtype: str
    reference: str
    prompts: int = 0
    tokens: int = 0
    agreed: int = 0
    logit_gap: float = 0.0  # largest, where they differ
    confidence_gap: float = 0.0
    answers_valid: int | None = None  # structured answers that are JSON with a trajectory
    values: int = 0
    forwards: int = 0
    cycles: int = 0
    drafted: int = 0
    accepted: int = 0
    seconds: float = 0.0
    peak_mib: float | None = None  # GPU memory, weights included


def decoders_of(subject: Subject) -> tuple[str, ...]:
    """Those that a model can run: without token shift only block diffusion, without sections only free text's."""
    text = ("ar", "self-spec", "fused-self-spec", "diffusion")
    names = tuple(DECODERS) if subject.template is not None else text
    return tuple(n for n in names if subject.model.config.token_shift or n in NOT_AUTOREGRESSIVE)


@torch.inference_mode()
def read_prompt(subject: Subject, seed: int, on_grid: bool, new_tokens: int) -> Prompted:
    """Draw prompt `seed` and read it, causally or on the grid, ready for `new_tokens` of text or the template."""
    model, config = subject.model, subject.model.config
    ids, patches = subject.prompt(seed)
    block = config.decode_block_size
    held = ids[: len(ids) // block * block] if on_grid else ids
    device = next(model.parameters()).device
    if subject.template is not None:
        form: Form = TemplateOnDevice(subject.template, device)
    else:
        given = ids[len(held) :] + [OPEN] * new_tokens
        form = TextForm(given, block, config.mask_token_id, config.text.vocab_size, device, config.im_end_token_id)
    cache = KVCache(config.text, len(held) + len(form), next(model.parameters()).dtype, device)
    if patches is None:
        return Prompted(model, cache, form, read(model, cache, held, on_grid), len(held), held, None)
    positions = position_ids(held, subject.grids, config).to(device)
    embeds = model.embed(torch.tensor([held], device=device), model.see(patches, subject.grids))
    hidden = model(embeds, positions, cache.append("causal", len(held)))
    return Prompted(model, cache, form, model.logits(hidden[0, -1]), int(positions.max()) + 1, held, patches)


def matrix(
    subjects: Mapping[str, Callable[[], Subject]],
    dtypes: Sequence[str],
    prompts: int,
    new_tokens: int,
    seed: int = 0,
) -> Iterator[Row]:
    """Every row against its reference, as soon as it is measured."""
    for make in subjects.values():
        for dtype in dtypes:
            subject = make()
            subject.model.to(DTYPES[dtype])
            stock = Stock(subject.model)
            ready: dict[bool, list[tuple[Prompted, Prefix]]] = {}
            for decoder in decoders_of(subject):
                on_grid = reads_on_grid(subject, decoder)
                if on_grid not in ready:
                    seeds = range(seed, seed + prompts)
                    ready[on_grid] = [read_both(subject, stock, s, on_grid, new_tokens) for s in seeds]
                yield compare(subject, stock, decoder, dtype, ready[on_grid])
                if decoder == "ar" and dtype != "fp64":
                    yield compare_stock(subject, stock, dtype, ready[on_grid])


def reads_on_grid(subject: Subject, decoder: str) -> bool:
    """Does `decoder` read the prompt in whole blocks?"""
    return decoder in NOT_AUTOREGRESSIVE and subject.model.config.clean_context == "block"


@torch.inference_mode()
def read_both(subject: Subject, stock: Stock, seed: int, on_grid: bool, new_tokens: int) -> tuple[Prompted, Prefix]:
    """One prompt read by our model and as stock transformers embeds it."""
    case = read_prompt(subject, seed, on_grid, new_tokens)
    return case, stock.prefix(case.held, case.patches, subject.grids)


@torch.inference_mode()
def compare(subject: Subject, stock: Stock, decoder: str, dtype: str, cases: Sequence[tuple[Prompted, Prefix]]) -> Row:
    """One decoder on one model against its reference."""
    config, diffusion, total = subject.model.config, decoder in NOT_AUTOREGRESSIVE, Agreement()
    row = Row(subject.name, decoder, dtype, DIFFUSION if diffusion else AR)
    for case, prefix in cases:
        trace: list[Pass] = []
        begin = time.perf_counter()
        answer = case.decode(decoder, **({"trace": trace} if diffusion else {}))
        row.seconds += time.perf_counter() - begin
        if diffusion:
            sections = decoder == "section-diffusion"
            width = len(case.form) if sections else config.sub_block_size
            ids, agreement = uncached_diffusion(stock, prefix, case.form, CONFIDENCE, width, not sections, trace)
            if ids != answer.ids:
                raise AssertionError("the passes that were traced do not add up to the answer that was given")
        else:
            agreement = autoregressive_choices(stock, prefix, case.form, answer.ids)
        total.add(agreement)
        _enter(row, subject, answer)
    row.tokens, row.agreed = total.tokens, total.same
    row.logit_gap, row.confidence_gap = total.logit_gap, total.confidence_gap
    return row


@torch.inference_mode()
def compare_stock(subject: Subject, stock: Stock, dtype: str, cases: Sequence[tuple[Prompted, Prefix]]) -> Row:
    """Stock transformers in `dtype` against itself in float64, behind the prefixes of our AR answers."""
    low = Stock(subject.model, DTYPES[dtype])
    row, total = Row(subject.name, STOCK, dtype, AR), Agreement()
    for case, prefix in cases:
        prefixes = prefix, low.prefix(case.held, case.patches, subject.grids)
        total.add(rounding(stock, low, prefixes, case.form, case.decode("ar").ids))
        row.prompts += 1
    row.tokens, row.agreed, row.logit_gap = total.tokens, total.same, total.logit_gap
    return row


def costs(
    subject: Subject, dtype: str, prompts: int, new_tokens: int, seed: int = 0, but: Collection[str] = ()
) -> Iterator[Row]:
    """`cost` of every decoder on one model, `but` some."""
    names = [name for name in decoders_of(subject) if name not in but]
    cases = {
        grid: [read_prompt(subject, s, grid, new_tokens) for s in range(seed, seed + prompts)]
        for grid in {reads_on_grid(subject, name) for name in names}
    }
    own_ar: list[list[int]] = []
    for decoder in names:
        if decoder not in NOT_AUTOREGRESSIVE and not own_ar:
            own_ar = [case.decode("ar").ids for case in cases[False]]  # the device is warm from here on
        yield cost(subject, decoder, dtype, cases[reads_on_grid(subject, decoder)], own_ar)


@torch.inference_mode()
def cost(subject: Subject, decoder: str, dtype: str, cases: Sequence[Prompted], own_ar: Sequence[list[int]]) -> Row:
    """One decoder on a model as it is, on whatever device: forwards, accepted tokens, seconds, peak memory.

    `own_ar` is what our AR wrote to each prompt, which the AR family is compared with up to the first difference;
    `logit_gap` says how near a tie that was.
    """
    free = decoder in NOT_AUTOREGRESSIVE
    row = Row(subject.name, decoder, dtype, "none" if free else OWN_AR)
    device = cases[0].cache.store.device
    for i, case in enumerate(cases):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        answer = case.decode(decoder)  # its tokens are Python ints: the device is done when it returns
        row.seconds += time.perf_counter() - begin
        if device.type == "cuda":
            row.peak_mib = max(row.peak_mib or 0.0, torch.cuda.max_memory_allocated(device) / 2**20)
        if not free:  # what follows the first difference has another prefix and says nothing
            row.tokens += len(own_ar[i])
            same = (k for k, (x, y) in enumerate(zip(own_ar[i], answer.ids, strict=False)) if x != y)
            row.agreed += (first := next(same, len(own_ar[i])))
            if first < len(own_ar[i]):
                row.logit_gap = max(row.logit_gap, _gap(case, own_ar[i], answer.ids[first], first))
        _enter(row, subject, answer)
    return row


def _gap(case: Prompted, ids: list[int], other: int, place: int) -> float:
    """By how much the model prefers `ids[place]` to `other` there, when it reads all of `ids` before it at once."""
    if place == 0:
        logits = case.logits[None]
    else:
        case.cache.length = len(case.held)
        logits = runner(case.model, case.cache, case.next_position, Counts())(ids[:place], 0, "causal")[-1:]
    scores = case.form.allowed(logits, place)[0]
    return abs(float(scores[ids[place]] - scores[other]))


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows as JSON, with what must hold: every float64 row agrees in every token."""
    exact = [row for row in rows if row.dtype == "fp64" and row.reference != OWN_AR]
    return {
        "exact_in_fp64": all(row.agreed == row.tokens for row in exact) if exact else None,
        "rows": [asdict(row) | {"rate": row.agreed / row.tokens if row.tokens else None} for row in rows],
    }


def _enter(row: Row, subject: Subject, answer: Answer) -> None:
    row.prompts += 1
    if subject.template is not None and subject.tokenizer is not None:
        row.answers_valid = (row.answers_valid or 0) + _readable(subject.template, subject.tokenizer, answer.ids)
    for name in ("values", "forwards", "cycles", "drafted", "accepted"):
        setattr(row, name, getattr(row, name) + getattr(answer.counts, name))


def _readable(template: Template, tokenizer: Vocabulary, ids: list[int]) -> bool:
    try:
        decode_answer(template, tokenizer, ids)
    except AnswerError:
        return False
    return True
