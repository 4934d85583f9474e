"""The decoding kernels and the engine on a GPU: the references' numbers at released shapes, the model's own states."""

from dataclasses import replace

import pytest
import torch

from efficientgen.eval.random_models import random_model
from efficientgen.kernels.skinny import Tile
from efficientgen.planning.cache import KVCache
from efficientgen.planning.config import efficient_dlm, fast_ddrive
from efficientgen.planning.engine import Engine
from efficientgen.planning.engine_file import Tuning, key_of, tuned
from efficientgen.planning.engine_layers import PRODUCTS, Step
from efficientgen.planning.engine_tune import candidates, choose, compile_all, compile_together, whole_head
from tests.kernels.decoding import Made, Sizes, attention_error, product_errors, row_errors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device with about 20 GB"),
]
SIZES = Sizes(2048, 1408, 128, 16, 2, 2400)
ROUNDED = 4e-3  # bf16 outputs of fp32 sums, relative RMS


def overlaps() -> tuple[bool, ...]:
    """Programmatic dependent launch exists from sm_90 on."""
    return (False, True) if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (9, 0) else (False,)


@pytest.mark.parametrize("overlap", overlaps())
@pytest.mark.parametrize("rows", [1, 32, 64])
def test_products_and_row_kernels_are_their_references(rows: int, overlap: bool):
    sizes, made = replace(SIZES, rows=rows), Made("cuda", torch.bfloat16, torch.seed() % 2**31)
    told = dict(product_errors(sizes, Tile(64, 64, 4, 4, 3, 2), made, overlap)) | dict(row_errors(sizes, made, overlap))
    assert max(told.values()) < ROUNDED, told


@pytest.mark.parametrize("overlap", overlaps())
@pytest.mark.parametrize(
    ("rows", "start", "tail"), [(1, 2047, 1), (32, 2048, 32), (32, 0, 32), (272, 1452, 272), (256, 1500, 800)]
)
def test_attention_is_its_reference(rows: int, start: int, tail: int, overlap: bool):
    made = Made("cuda", torch.bfloat16, torch.seed() % 2**31)
    for apart in (1, 4):
        if rows % apart == 0:
            assert attention_error(replace(SIZES, rows=rows), start, tail, made, overlap, apart=apart) < ROUNDED


@pytest.fixture(scope="module")
def model():
    config = replace(fast_ddrive(), vision=None, text=replace(fast_ddrive().text, num_hidden_layers=4))
    return random_model(config, 0, torch.bfloat16, "cuda")


@torch.inference_mode()
@pytest.mark.parametrize("family", ["qwen2.5", "qwen3"])
def test_every_candidate_is_the_librarys_product(model, family: str):
    if family == "qwen3":
        config = efficient_dlm("4b")
        model = random_model(replace(config, text=replace(config.text, num_hidden_layers=2)), 0, torch.bfloat16, "cuda")
    engine, names = Engine(model, 2048), PRODUCTS if family == "qwen2.5" else ("qkv",)
    compile_all(engine, [Step(engine.weights, rows, rows, 1024) for rows in (1, 32, 48, 128)], names)
    for rows in (1, 32, 48, 128):
        for name in names:
            got, whole = [], whole_head(engine)
            for tile in (None, *candidates(name, rows, whole)):
                step, generator = Step(engine.weights, rows, rows, 1024), torch.Generator("cuda").manual_seed(rows)
                for x in (step.x, step.attended, step.gated):
                    x.normal_(generator=generator)
                step.one.copy_(step.x.float().pow(2).sum(-1)[None])
                step.slot.copy_(engine.spare(rows))
                step.place.copy_(torch.arange(rows))
                engine.layers.trial({(name, rows): tile}).product(step, name, 1)
                out = {"qkv": step.q, "gate_up": step.gated}.get(name, step.x)
                got.append(torch.cat([out.flatten(), engine.store[1, :, :, engine.capacity :].flatten()]).float())
            for tile, each in zip(candidates(name, rows, whole), got[1:], strict=True):
                assert (each - got[0]).norm() / got[0].norm() < 2 * ROUNDED, (rows, name, tile)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["qwen2.5", "qwen3"])
def test_graphs_give_the_models_hidden_states(model, family: str):
    """Prompt, draft and verification; fp16, so that rounding does not hide a wrong address."""
    if family == "qwen3":
        config = efficient_dlm("4b")
        model = random_model(replace(config, text=replace(config.text, num_hidden_layers=3)), 0, torch.float16, "cuda")
    else:
        model = random_model(model.config, 1, torch.float16, "cuda")
    engine = Engine(model, 1024, rows=(1, 32, 64, 96))
    whole = whole_head(engine)
    ours = {(name, rows): candidates(name, rows, whole)[-1] for name in PRODUCTS for rows in engine.rows}
    steps = {rows: Step(engine.weights, rows, rows, 1024) for rows in engine.rows}
    compile_together(engine, [(steps[rows], name, tile) for (name, rows), tile in ours.items()])
    engine.adopt(Tuning(ours))  # each of them is the library's product in the test above
    cache = KVCache(model.config.text, 1024, torch.float16, torch.device("cuda"))
    ids = torch.randint(0, 1000, (900,), device="cuda")
    places = torch.arange(900, device="cuda")
    theirs = cache.read(model, ids[:600], places[:600], "causal")[-1]
    mine, ours = engine.prefill(ids[:600].tolist(), model.embed(ids[:600]), places[:600].expand(3, -1))
    assert (ours - theirs).norm() / theirs.norm() < 0.05
    for count, mode in ((32, "block"), (5, "causal"), (1, "causal"), (60, "causal"), (90, "block")):
        at = slice(cache.length, cache.length + count)
        theirs, ours = (c.read(model, ids[at], places[at], mode) for c in (cache, mine))
        assert (ours - theirs).norm() / theirs.norm() < 0.05, (count, mode)
        if mode == "block":
            cache.drop(count)
            mine.drop(count)


@torch.inference_mode()
def test_tuning_is_measured_once(model, tmp_path, monkeypatch):
    """What a load chose is there for the next one, attention's ways included."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = Engine(model, 1024, rows=(1, 32))
    first = tuned(key_of(engine, True), lambda: choose(engine, engine.rows)[0])
    engine.adopt(first)
    engine.prepare(600, 640)
    again = tuned(key_of(engine, True), lambda: pytest.fail("measured again"))
    assert again.found and again.choices == first.choices and again.ways == first.ways and first.ways


@torch.inference_mode()
def test_captured_prompts_are_read_as_uncaptured_ones(model):
    """The same prompts in turn, so that the second reading is a capture's; the third kept tokens of the one before."""
    engine, plain = Engine(model, 1024), Engine(model, 1024, graphs=False)
    places = torch.arange(700, device="cuda").expand(3, -1)
    head = torch.randint(0, 1000, (200,), device="cuda")
    for count in (600, 601, 610, 600, 640):
        ids = torch.cat([head, torch.randint(0, 1000, (count - 200,), device="cuda")])
        got = [e.prefill(ids.tolist(), model.embed(ids), places[:, :count])[1].float() for e in (engine, plain)]
        assert (got[0] - got[1]).norm() / got[1].norm() < 3 * ROUNDED and engine.kept == plain.kept
        held = [e.store[..., :count, :].float() for e in (engine, plain)]
        assert (held[0] - held[1]).norm() / held[1].norm() < 3 * ROUNDED
    assert any(captured for _, captured in engine._prefills._held.values())
