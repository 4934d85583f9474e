"""Section weights and noise as choices of a run: the ablation runs, tells failures and concludes from every seed."""

import queue

import numpy as np
import pytest
import torch

from efficientgen.planning.cache import KVCache
from efficientgen.planning.masks import section_turns
from efficientgen.planning.model import VisionLanguageModel, position_ids
from efficientgen.planning.schema import NANO, SECTIONS, compile_template
from efficientgen.planning.train.ablate_sections import (
    BOTH,
    METRICS,
    NEITHER,
    NO_WEIGHTS,
    VARIANTS,
    SectionBudget,
    summary,
    verdicts,
)
from efficientgen.planning.train.ablate_sections import _seed as run_seed
from efficientgen.planning.train.validate import _drafts
from tests.planning.test_train import tiny_directory  # noqa: F401


def rows(told):
    out = []
    while (row := told.get_nowait()) is not None:
        out.append(row)
    return out


def test_a_seed_makes_every_variant_from_one_parent(tiny_directory, small_config, tmp_path):  # noqa: F811
    told, budget = queue.Queue(), SectionBudget(parent_steps=2, steps=2, batch=2, drives=1)
    run_seed(tiny_directory, tmp_path, 0, [BOTH, NEITHER], budget, 1e18, "cpu", False, told, small_config)
    found = rows(told)
    assert [row["variant"] for row in found] == [BOTH, NEITHER] and all(np.isfinite(row["ade"]) for row in found)
    assert found[0]["loss trajectory"] != found[1]["loss trajectory"], "the choice changes what is trained"
    assert {f"loss {name}" for name in SECTIONS} <= found[0].keys() and METRICS.keys() <= found[0].keys()


def test_a_seed_that_fails_says_so_and_ends(tmp_path):
    told = queue.Queue()
    run_seed(tmp_path / "nothing", tmp_path, 3, [BOTH], SectionBudget(), 1e18, "cpu", False, told)
    (row,) = rows(told)
    assert row["seed"] == 3 and "DatasetError" in row["error"]


def test_verdicts_need_every_seed_and_know_which_way_is_better():
    def run(variant, seed, value):
        return {"variant": variant, "seed": seed} | dict.fromkeys(METRICS, value)

    better = [run(v, s, 1.0 if v == BOTH else 2.0 + s) for v in VARIANTS for s in range(2)]
    claims = {c["claim"]: c for c in verdicts(better)}
    assert claims["section weights help"]["ade"]["verdict"] == "reproduces"
    assert claims["section weights help"]["draft right"]["verdict"] == "reversed"
    mixed = [run(BOTH, 0, 1.0), run(NO_WEIGHTS, 0, 2.0), run(BOTH, 1, 3.0), run(NO_WEIGHTS, 1, 2.0)]
    assert verdicts(mixed)[0]["ade"]["verdict"] == "undecided"
    assert verdicts(mixed)[2]["seeds"] == 0 and "ade" not in verdicts(mixed)[2]
    assert summary(mixed)[BOTH]["ade"] == pytest.approx([2.0, 2.0**0.5])


def test_a_validated_draft_is_what_the_engine_drafts(small_config, tokenizer):
    """The row with a noisy half against a cache that holds the clean tokens and a block that is looked at."""
    torch.manual_seed(1)
    model = VisionLanguageModel(small_config).double().eval().requires_grad_(False)
    template = compile_template(NANO, tokenizer, small_config.bd_size)
    turn = section_turns(template.section, template.is_value, small_config.bd_size)
    prompt = torch.randint(10, 60, (1, 9))
    answer = torch.randint(10, 60, (1, len(template)))
    positions = position_ids(prompt[0].tolist(), (), small_config)
    hidden, losses, _ = _drafts(model, model.embed(prompt), positions, template, answer)
    cache = KVCache(small_config.text, 9 + len(template), torch.float64, torch.device("cpu"))
    model(model.embed(prompt), positions, cache.append("causal", 9))
    for block in range(turn.max() + 1):
        start, end = (int(x) for x in np.flatnonzero(turn == block)[[0, -1]])
        ids = torch.where(hidden, small_config.mask_token_id, answer)[:, start : end + 1]
        places = torch.arange(9 + start, 9 + end + 1).expand(3, -1)
        states = model(model.embed(ids), places, cache.append("block", ids.shape[1]))
        cache.drop(ids.shape[1])
        expected = model.logits(states[0, :-1]).float().log_softmax(-1)
        chosen = -expected.gather(1, answer[0, start + 1 : end + 1, None])[:, 0]
        torch.testing.assert_close(losses[0, start + 1 : end + 1], chosen, atol=1e-5, rtol=1e-5)
        assert not hidden[start], "the first token of a block is known"
        true = model.embed(answer[:, start : end + 1])
        model(true, places, cache.append("causal", ids.shape[1]))
