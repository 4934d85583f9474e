"""Batched rollouts: each equals plain AR sampling with the same noise, whoever shares its batch."""

import numpy as np
import pytest
import torch

from efficientgen.planning.cache import CacheFullError, ForkedCache, KVCache
from efficientgen.planning.ddrive import DDrive
from efficientgen.planning.decode import decode_ar, decode_scaffold_spec
from efficientgen.planning.decode_form import Answer, Counts
from efficientgen.planning.model import position_ids
from efficientgen.planning.rollouts import (
    NoValidRolloutError,
    decode_rollouts,
    gumbel_noise,
    read_rollouts,
    trajectory_tokens,
)
from efficientgen.planning.schema import SECTIONS, AnswerError
from tests.planning.conftest import random_observation


class Prompted:
    """A prefilled planner, ready to decode again and again."""

    def __init__(self, model, tokenizer, seed: int):
        self.planner = DDrive(model, tokenizer)
        patches, grids, ids = self.planner.inputs(random_observation(seed))
        embeds = model.embed(torch.tensor([ids]), model.see(patches, grids))
        positions = position_ids(ids, grids, model.config)
        length = len(ids) + len(self.planner.template) + 1
        self.cache = KVCache(model.config.text, length, torch.float64, torch.device("cpu"))
        hidden = model(embeds, positions, self.cache.append("causal", len(ids)))
        self.model, self.prompt, self.next = model, len(ids), int(positions.max()) + 1
        self.logits = model.logits(hidden[0, -1])
        section = self.planner.template.section
        self.start = int(np.flatnonzero(section == SECTIONS.index("trajectory"))[0])
        self.steps = len(section) - self.start

    def decode(self, how, *more):
        self.cache.length = self.prompt
        return how(self.model, self.cache, self.planner._template, self.logits, self.next, *more)

    def noise(self, rollouts: int, stamp_ns: int = 7):
        return gumbel_noise(3, stamp_ns, rollouts, self.steps, self.model.config.text.vocab_size)


@pytest.fixture(scope="module")
def prompted(small_model, tokenizer):
    return Prompted(small_model, tokenizer, 1)


def sampled_ar(prompted: Prompted, noise, temperature: float) -> list[int]:
    """One token per forward, no cache shared, no draft: the definition."""
    template = prompted.planner._template
    ids = prompted.decode(decode_ar).ids[: prompted.start]
    prompted.cache.length = prompted.prompt
    model = prompted.model

    def run(tokens, first):
        positions = torch.arange(first, first + len(tokens)).expand(3, -1) + prompted.next
        embeds = model.embed(torch.tensor([tokens]))
        return model.logits(model(embeds, positions, prompted.cache.append("causal", len(tokens))))[0, -1:]

    logits = run(ids, 0)
    for i in range(prompted.start, len(template.scaffold)):
        ids += template.pick(logits / temperature + noise[i - prompted.start], i)
        logits = run(ids[-1:], i)
    return ids


def test_draws_for_the_tokens_that_may_be_written_are_all_that_counts(prompted):
    tokens = trajectory_tokens(prompted.planner.template)
    assert 10 < len(tokens) < 30
    size = prompted.model.config.text.vocab_size
    whole, part = prompted.noise(3), gumbel_noise(3, 7, 3, prompted.steps, size, tokens)
    first, _ = prompted.decode(decode_rollouts, whole, 0.5)
    again, _ = prompted.decode(decode_rollouts, part, 0.5, tokens)
    assert [a.ids for a in first] == [a.ids for a in again]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_each_rollout_is_ar_sampling_with_its_own_noise(prompted, temperature):
    noise = prompted.noise(3)
    answers, counts = prompted.decode(decode_rollouts, noise, temperature)
    assert [a.ids for a in answers] == [sampled_ar(prompted, n, temperature) for n in noise]
    assert len({tuple(a.ids) for a in answers}) == 3, "three draws, three trajectories"
    assert counts.forwards <= 2 * counts.cycles and 0 <= counts.accepted <= counts.drafted
    values = np.array(prompted.planner.template.is_value)
    assert counts.values == values[: prompted.start].sum() + 3 * values[prompted.start :].sum()


def test_who_shares_the_batch_changes_nothing(prompted):
    noise = prompted.noise(4)
    together, _ = prompted.decode(decode_rollouts, noise, 0.5)
    for r in range(4):
        alone, _ = prompted.decode(decode_rollouts, noise[r : r + 1], 0.5)
        assert alone[0].ids == together[r].ids


def test_temperature_zero_is_greedy(prompted):
    greedy = prompted.decode(decode_scaffold_spec).ids
    answers, _ = prompted.decode(decode_rollouts, prompted.noise(2), 0.0)
    assert [a.ids for a in answers] == [greedy, greedy]


def test_noise_is_keyed_by_seed_stamp_and_rollout():
    assert torch.equal(gumbel_noise(1, 2, 3, 4, 5)[:2], gumbel_noise(1, 2, 2, 4, 5))
    some = [0, 1, 17, 30, 31, 32, 96]
    assert torch.equal(gumbel_noise(1, 2, 3, 4, 97, some), gumbel_noise(1, 2, 3, 4, 97)[..., some])
    assert not torch.equal(gumbel_noise(1, 2, 1, 4, 5), gumbel_noise(1, 3, 1, 4, 5))


def test_a_plan_averages_its_rollouts_and_tells_their_spread(small_model, tokenizer):
    planner = DDrive(small_model, tokenizer, rollouts=4)
    planner.reset(5)
    observation = random_observation(2)
    plan = planner.plan(observation)
    assert plan.rollouts.shape == (4, 6, 2) and plan.spread_m.shape == (6,)
    np.testing.assert_allclose(plan.waypoints, plan.rollouts.mean(0))
    np.testing.assert_allclose(plan.spread_m, np.sqrt(plan.rollouts.var(0).sum(-1)))
    np.testing.assert_array_equal(planner.plan(observation).rollouts, plan.rollouts)
    planner.reset(6)
    assert not np.array_equal(planner.plan(observation).rollouts, plan.rollouts)
    with pytest.raises(ValueError, match="rollouts"):
        DDrive(small_model, tokenizer, rollouts=0)


def test_rollouts_without_a_trajectory_are_rejected_and_counted(prompted, tokenizer):
    template = prompted.planner.template
    answers, _ = prompted.decode(decode_rollouts, prompted.noise(3), 0.5)
    broken = Answer(answers[1].ids[:-2], Counts())
    read = read_rollouts(template, tokenizer, [answers[0], broken, answers[2]])
    assert read.rejected == 1 and len(read.valid) == 2
    assert read.valid[1] == read_rollouts(template, tokenizer, answers[2:]).valid[0]
    with pytest.raises(NoValidRolloutError, match="none of 2 rollouts") as told:
        read_rollouts(template, tokenizer, [broken, broken])
    assert isinstance(told.value, AnswerError)
    with pytest.raises(AnswerError) as told:
        read_rollouts(template, tokenizer, [broken])
    assert type(told.value) is AnswerError


def test_the_prefix_is_stored_once(prompted):
    """A tail holds the trajectory and one block; N of them share the prompt's K/V by reference."""
    tails = ForkedCache(prompted.cache, 8, 20)
    assert tails.prefix.store.data_ptr() == prompted.cache.store.data_ptr()
    assert tails.tail.shape[2:5] == (8, prompted.cache.store.shape[3], 20)


def test_tails_that_are_too_short_are_refused(small_model):
    cache = KVCache(small_model.config.text, 4, torch.float64, torch.device("cpu"))
    with pytest.raises(CacheFullError):
        ForkedCache(cache, 2, 3).append("causal", [4, 4], 4)
