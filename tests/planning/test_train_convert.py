"""One training step of every conversion against independent computations of the same numbers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from efficientgen.perception.patches import grid_of, patchify
from efficientgen.planning.cache import KVCache
from efficientgen.planning.masks import Layout, random_turns
from efficientgen.planning.model import VisionLanguageModel, position_ids
from efficientgen.planning.nano_text import nano_text_config, nano_text_tokenizer
from efficientgen.planning.prompt import EgoNumbers, prompt_ids
from efficientgen.planning.schema import NANO, compile_template
from efficientgen.planning.train import objectives
from efficientgen.planning.train.convert import Conversion, alone, attend_in
from efficientgen.planning.train.loss import sasd_loss, token_weights
from efficientgen.planning.train.recipe import EFFICIENT_DLM, FAST_DDRIVE, FAST_DLLM_V2, FAST_DVLM, Noise, draw_noise
from efficientgen.planning.train.rows import Batch, build_rows, text_batch


@pytest.fixture(scope="module")
def text_model():
    torch.manual_seed(0)
    config = nano_text_config(nano_text_tokenizer(), hidden=32, layers=2)
    model = VisionLanguageModel(config).double().eval().requires_grad_(False)
    for parameter in model.parameters():  # far from 0, so that masks matter
        torch.nn.init.normal_(parameter, std=0.3) if parameter.dim() > 1 else None
    return model


def texts(lengths=(21, 13), prompts=(5, 2)):
    generator = torch.Generator().manual_seed(3)
    lines = [torch.randint(8, 120, (n,), generator=generator).tolist() for n in lengths]
    return lines, text_batch(lines, list(prompts), pad=0, end=4)


@pytest.mark.parametrize(
    "recipe", [replace(EFFICIENT_DLM, bd_size=4, fill="truncate"), replace(FAST_DLLM_V2, bd_size=4, fill="truncate")]
)
def test_training_sees_what_decoding_sees_block_causal(text_model, recipe):
    """Every hidden token's entropy equals that of a decoder with the clean blocks committed in its cache."""
    lines, batch = texts()
    noise = draw_noise(recipe, batch, 4, torch.Generator().manual_seed(0))
    expected = torch.zeros((), dtype=torch.float64)
    level = noise.level.double()
    shift, blocks, count = recipe.token_shift, 0, 0
    for row, line in enumerate(lines):
        for copy in range(noise.hidden.shape[1]):
            cache = KVCache(text_model.config.text, 32, torch.float64, torch.device("cpu"))
            before = None  # noisy state of the token before this block
            for start in range(0, len(line), 4):
                ids = torch.tensor(line[start : start + 4])
                hidden = noise.hidden[row, copy, start : start + len(ids)]
                masked = torch.where(hidden, text_model.config.mask_token_id, ids)
                states = forward(text_model, cache, masked, start)
                cache.drop(len(ids))
                forward(text_model, cache, ids, start)  # commit the clean block, bidirectionally
                predictors = torch.cat([before, states[:-1]]) if shift and before is not None else states
                use = hidden.clone()
                if shift and before is None:
                    predictors = torch.cat([states[:1], states[:-1]])
                    use[0] = False
                entropies = F.cross_entropy(text_model.logits(predictors), ids, reduction="none")
                maskable = batch.maskable[row, start : start + len(ids)].sum()
                if recipe.objective == "v2":
                    expected, count = expected + entropies[use].sum(), count + int(use.sum())
                elif maskable:
                    expected = expected + (entropies / level[row, start : start + len(ids)])[use].sum() / maskable
                    blocks += 1
                before = states[-1:]
    total = Conversion(text_model, recipe)(batch, noise).total
    torch.testing.assert_close(total, expected / (count if recipe.objective == "v2" else blocks))


def forward(model, cache, ids, start):
    """States (n, hidden) of a block that sees the cache and itself."""
    positions = torch.arange(start, start + len(ids)).expand(3, -1)
    return model(model.embed(ids[None]), positions, cache.append("block", len(ids)))[0]


def test_training_sees_what_decoding_sees_token_causal(text_model):
    """Fast-dVLM: noisy blocks over a causal context, and beta times the plain AR loss of the answer."""
    recipe = replace(FAST_DVLM, bd_size=4)
    lines, batch = texts(lengths=(17,), prompts=(5,))
    noise = draw_noise(recipe, batch, 4, torch.Generator().manual_seed(1))
    noise.hidden[:, :, 5::4] = False  # the first token of a block is predicted from the block before it: see above
    line, noisy, count = torch.tensor(lines[0]), torch.zeros((), dtype=torch.float64), 0
    for copy in range(2):
        for start in range(5, 17, 4):
            cache = KVCache(text_model.config.text, 32, torch.float64, torch.device("cpu"))
            positions = torch.arange(start).expand(3, -1)
            text_model(text_model.embed(line[None, :start]), positions, cache.append("causal", start))
            hidden = noise.hidden[0, copy, start : start + 4]
            ids = line[start : start + 4]
            states = forward(text_model, cache, torch.where(hidden, text_model.config.mask_token_id, ids), start)
            entropies = F.cross_entropy(text_model.logits(states[:-1]), ids[1:], reduction="none")
            noisy, count = noisy + entropies[hidden[1:]].sum(), count + int(hidden[1:].sum())
    cache = KVCache(text_model.config.text, 32, torch.float64, torch.device("cpu"))
    states = text_model(text_model.embed(line[None]), torch.arange(17).expand(3, -1), cache.append("causal", 17))[0]
    clean = F.cross_entropy(text_model.logits(states[4:-1]), line[5:])
    parts = Conversion(text_model, recipe)(batch, noise)
    torch.testing.assert_close(parts.total, 0.5 * noisy / count + 0.5 * clean)
    torch.testing.assert_close(parts.clean, clean)
    ar = Conversion(text_model, recipe)(batch)
    torch.testing.assert_close(ar.total, clean)


def test_two_noisy_copies_of_a_row_equal_the_papers_doubled_batch(text_model):
    recipe = replace(FAST_DVLM, bd_size=4)
    _, batch = texts()
    noise = draw_noise(recipe, batch, 4, torch.Generator().manual_seed(0))
    both = Conversion(text_model, recipe)(batch, noise)
    one = [Noise(noise.block, noise.hidden[:, c : c + 1], noise.level) for c in range(2)]
    losses = [Conversion(text_model, replace(recipe, objective="v2"))(batch, n).total for n in one]
    counts = [int(n.hidden.sum()) for n in one]
    together = sum(a * c for a, c in zip(losses, counts, strict=True)) / sum(counts)
    torch.testing.assert_close(both.noisy, together.detach())


def mixed_images(model):
    """Three rows with 0, 2 and 1 images of two sizes; prompt, images, more prompt, answer."""
    config = model.config
    generator = torch.Generator().manual_seed(5)
    small, large = grid_of(28, 56), grid_of(56, 56)
    rows, positions, answers, pictures = [], [], [], []
    for grids in ((), (small, large), (large,)):
        ids = [20, 21]
        for t, h, w in grids:
            ids += [config.vision_start_token_id, *[config.image_token_id] * (t * h * w // 4), 22]
        prompt = len(ids) + 1
        ids += torch.randint(24, 60, (9,), generator=generator).tolist()
        rows.append(ids)
        positions.append(position_ids(ids, grids, config))
        answers.append([False] * prompt + [True] * (len(ids) - prompt))
        patches = [
            patchify(torch.randint(0, 255, (1, 2, 14 * h, 14 * w, 3), generator=generator, dtype=torch.uint8))[0]
            for _, h, w in grids
        ]
        pictures.append((torch.cat(patches).double() if patches else torch.zeros(0, 1176).double(), grids))
    length = max(map(len, rows))
    pad = lambda x, fill: torch.tensor([[*row, *[fill] * (length - len(row))] for row in x])  # noqa: E731
    ids, real = pad(rows, 0), pad([[True] * len(r) for r in rows], False)
    answer = pad(answers, False)
    places = torch.stack([torch.cat([p, torch.zeros(3, length - p.shape[1]).long()], 1) for p in positions], 1)
    ones, none = torch.ones(ids.shape, dtype=torch.float64), torch.zeros_like(answer)
    return Batch(ids, places, real, answer, answer, none, none.long(), ones, ones, ids == config.image_token_id,
                 tuple(pictures))  # fmt: skip


def test_vision_efficient_rows_of_different_image_counts_equal_row_by_row(small_model):
    recipe = replace(FAST_DVLM, bd_size=4)
    batch = mixed_images(small_model)
    noise = draw_noise(recipe, batch, 4, torch.Generator().manual_seed(0))
    rows = build_rows(batch, noise.block, noise.hidden, "text")
    whole = Conversion(small_model, recipe)(batch, noise)
    clean, noisy, counts = 0.0, 0.0, 0
    for i in range(3):
        n = int(batch.real[i].sum())
        cut = {k: v[i : i + 1, :n] for k, v in vars(batch).items() if k not in ("positions", "pictures")}
        alone_batch = Batch(positions=batch.positions[:, i : i + 1, :n], pictures=batch.pictures[i : i + 1]
                            if batch.pictures[i][1] else (), **cut)  # fmt: skip
        own = Noise(noise.block[i : i + 1, :n], noise.hidden[i : i + 1, :, :n], noise.level[i : i + 1, :n])
        parts = Conversion(small_model, recipe)(alone_batch, own)
        hidden, answers = int(own.hidden.sum()), int(alone_batch.answer.sum())
        clean, noisy, counts = clean + parts.clean * answers, noisy + parts.noisy * hidden, counts + hidden
        text = torch.nonzero(batch.real[i] & ~batch.image[i])[:, 0]
        assert rows.index[i][rows.present[i]].tolist() == text.tolist()
        half = batch.ids.shape[1]
        assert torch.equal(rows.positions[:, i, half : half + len(text)], batch.positions[:, i, text])
    torch.testing.assert_close(whole.clean, clean / int(batch.answer.sum()))
    torch.testing.assert_close(whole.noisy, noisy / counts)


def test_dropping_images_from_the_noisy_half_changes_no_answer(small_model):
    """What the answer may see is the same with and without them, so the loss is, and the row is shorter."""
    batch = mixed_images(small_model)
    noise = draw_noise(replace(FAST_DVLM, bd_size=4), batch, 4, torch.Generator().manual_seed(0))
    first = batch.answer & ~batch.answer.roll(1, 1)
    hidden = noise.hidden & ~first[:, None]  # its predictor is the noisy prompt, which sees noisy images in "all"
    noise = Noise(noise.block, hidden, noise.level)
    losses = {k: Conversion(small_model, replace(FAST_DVLM, keep=k))(batch, noise).total for k in ("all", "text")}
    torch.testing.assert_close(losses["all"], losses["text"])
    size = {k: build_rows(batch, noise.block, hidden, k).layout.stream.shape[1] for k in ("all", "text", "answer")}
    assert size["answer"] < size["text"] < size["all"]


def test_the_fast_ddrive_recipe_is_the_nano_trainers_loss(small_model, tokenizer):
    """`planning.train.loss.sasd_loss`, which trained nano-ddrive, and the general trainer agree on the same noise."""
    template, config = compile_template(NANO, tokenizer, 32), small_model.config
    ego = EgoNumbers(((-3.0, 0.0), (-2.0, 0.0), (-1.0, 0.0)), 2.0, 0.0, 0.0)
    prompt = prompt_ids(tokenizer, 0, 0, "GO_STRAIGHT", ego)
    generator = torch.Generator().manual_seed(0)
    answer = torch.randint(8, tokenizer.vocab_size, (2, len(template)), generator=generator)
    scaffold = torch.from_numpy(template.scaffold)
    answer = torch.where(scaffold >= 0, scaffold, answer)
    turn = random_turns(template, 8, __import__("numpy").random.default_rng(1))
    weights = token_weights(template, answer, None)
    embeds = small_model.embed(torch.tensor([prompt] * 2))
    positions = torch.arange(len(prompt)).expand(3, -1)
    reference = sasd_loss(small_model, embeds, positions, answer, template, weights, turn, 0.3,
                          torch.Generator().manual_seed(7))  # fmt: skip
    # the same noise through the general path
    from efficientgen.planning.masks import complementary_noise, first_of_block
    from efficientgen.planning.train.loss import SECTION_BETA

    maskable = torch.from_numpy(template.is_value & ~first_of_block(turn))
    section = torch.from_numpy(template.section)
    hidden = complementary_noise(
        maskable, section, torch.tensor(SECTION_BETA), 0.3, torch.Generator().manual_seed(7), 2
    )
    p, length = len(prompt), len(prompt) + len(template)
    wide = lambda x, fill: torch.cat([torch.full((2, p), fill, dtype=x.dtype), x.expand(2, -1)], 1)  # noqa: E731
    batch = Batch(
        ids=torch.cat([torch.tensor([prompt] * 2), answer], 1),
        positions=torch.arange(length).expand(3, 2, -1),
        real=torch.ones(2, length, dtype=torch.bool),
        answer=wide(torch.ones(2, len(template), dtype=torch.bool), False),
        maskable=wide(torch.from_numpy(template.is_value), False),
        always=torch.zeros(2, length, dtype=torch.bool),
        section=wide(section, -1),
        weight=wide(weights, 1.0),
        clean_weight=wide(weights, 1.0),
        image=torch.zeros(2, length, dtype=torch.bool),
    )
    block = wide(torch.from_numpy(turn) + 1, 0)
    noisy = torch.cat([torch.zeros(2, 2, p, dtype=torch.bool), hidden], 2)
    parts = Conversion(small_model, FAST_DDRIVE)(batch, Noise(block, noisy, torch.ones(2, length)))
    assert config.token_shift == 1
    torch.testing.assert_close(parts.total, reference.total, check_dtype=False, rtol=1e-6, atol=1e-6)
    drawn = draw_noise(FAST_DDRIVE, batch, 32, torch.Generator().manual_seed(0))
    assert not (drawn.hidden & ~batch.maskable[:, None]).any(), "scaffold is never hidden"
    assert (drawn.block[:, :p] == 0).all() and (drawn.block[:, p:] > 0).all(), "the answer sees the whole prompt"


def test_efficient_dlms_weights_make_every_block_count_alike():
    """With an entropy of 1 for each hidden token and t the share that is hidden, the loss is 1 whatever the noise."""
    _, batch = texts()
    recipe = replace(EFFICIENT_DLM, bd_size=4)
    for seed in range(5):
        noise = draw_noise(recipe, batch, 4, torch.Generator().manual_seed(seed))
        loss = objectives.efficient_dlm(noise.hidden.double(), noise.level.double(), noise.block, batch.maskable, alone)
        assert float(loss) == pytest.approx(1.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention's fused kernel needs a GPU")
@pytest.mark.parametrize("context", ["token", "block"])
def test_the_fused_kernel_equals_dense_attention(context):
    generator = torch.Generator("cuda").manual_seed(0)
    size = 512
    place = torch.arange(size, device="cuda") % 256
    stream = (torch.arange(size, device="cuda") >= 256).long()
    layout = Layout(stream.expand(2, -1), place.expand(2, -1), (place // 32).expand(2, -1))
    q = torch.randn(2, 4, size, 64, device="cuda", generator=generator, requires_grad=True)
    k, v = (torch.randn(2, 2, size, 64, device="cuda", generator=generator) for _ in range(2))
    fused, dense = (attend_in(layout, context, flex)(0)(q, k, v) for flex in (True, False))
    torch.testing.assert_close(fused, dense, atol=2e-3, rtol=2e-3)
    gradients = [torch.autograd.grad(x.square().sum(), q, retain_graph=True)[0] for x in (fused, dense)]
    torch.testing.assert_close(*gradients, atol=2e-2, rtol=2e-2)
