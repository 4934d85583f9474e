"""A packed training row is many separate prompts: each question sees the scene and itself, as the engine would."""

from dataclasses import replace

import pytest
import torch

from efficientgen.planning.cache import KVCache
from efficientgen.planning.model import VisionLanguageModel, position_ids
from efficientgen.planning.train.question_rows import Phrases, assemble, attend, gathered, losses, right

GRIDS = ((1, 4, 4), (1, 4, 4))
QUESTIONS = [[40, 41, 42], [43, 44, 45, 46, 47], [48, 49]]
ANSWERS = [[60, 61, 4], [62, 4], [63, 64, 65, 66, 4]]


@pytest.fixture(scope="module")
def model(small_config):
    torch.manual_seed(3)
    config = replace(small_config, decode_block_size=4)
    return VisionLanguageModel(config).double().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def packed(model):
    image, start = model.config.image_token_id, model.config.vision_start_token_id
    scene = torch.tensor([[3, start, *[image] * 4, 6, start, *[image] * 4, 6, 30 + b] for b in range(2)])
    positions = position_ids(scene[0].tolist(), GRIDS, model.config)
    vision = torch.randn(2, 8, model.config.text.hidden_size, dtype=torch.float64)
    phrases = Phrases.of(QUESTIONS, ANSWERS)
    questions, answers = torch.tensor([[0, 1, 2], [2, 0, 1]]), torch.tensor([[2, 0, 1], [0, 2, -1]])
    generator = torch.Generator().manual_seed(5)
    rows = assemble(scene, positions, phrases, questions, answers, 4, 2, generator)
    hidden = model(model.embed(rows.ids, vision), rows.positions, attend(rows))
    return scene, positions, vision, questions, answers, rows, hidden


def alone(model, scene, positions, vision, b, question):
    """A cache that holds the scene of row b and one question, the question's last hidden state, the next position."""
    cache = KVCache(model.config.text, 80, torch.float64, torch.device("cpu"))
    begin = int(positions.max()) + 1
    ids = torch.cat([scene[b], torch.tensor(question)])[None]
    where = torch.cat([positions, torch.arange(begin, begin + len(question)).expand(3, -1)], 1)
    hidden = model(model.embed(ids, vision[b : b + 1]), where, cache.append("causal", ids.shape[1]))
    return cache, hidden[0, -1], begin + len(question)


def test_clean_answers_are_predicted_as_if_each_question_were_alone(model, packed):
    scene, positions, vision, questions, answers, rows, hidden = packed
    found = gathered(hidden, rows.clean_predictors)
    for b in range(2):
        for k in range(3):
            if answers[b, k] < 0:
                assert (rows.clean_targets[b, k] == -100).all()
                continue
            answer = ANSWERS[answers[b, k]]
            cache, last, at = alone(model, scene, positions, vision, b, QUESTIONS[questions[b, k]])
            where = torch.arange(at, at + len(answer)).expand(3, -1)
            rest = model(model.embed(torch.tensor([answer])), where, cache.append("causal", len(answer)))[0]
            expected = torch.cat([last[None], rest[:-1]])
            torch.testing.assert_close(found[b, k, : len(answer)], expected)
            assert rows.clean_targets[b, k, : len(answer)].tolist() == answer


def test_a_draft_is_the_block_that_self_speculation_asks_for(model, packed):
    scene, positions, vision, questions, answers, rows, hidden = packed
    found = gathered(hidden, rows.draft_predictors)
    width = rows.mask.shape[2]
    for b in range(2):
        for k in range(3):
            if answers[b, k] < 0:
                continue
            answer = ANSWERS[answers[b, k]]
            segment = slice(rows.prefix + k * width, rows.prefix + (k + 1) * width)
            block, where = rows.ids[b, segment][-4:].tolist(), rows.positions[0, b, segment][-4:]
            cache, _, at = alone(model, scene, positions, vision, b, QUESTIONS[questions[b, k]])
            start = int(where[0]) - at
            assert 0 <= start < len(answer) and block[0] == answer[start]  # the first token is known
            assert all(token in (2, *answer[start + j : start + j + 1]) for j, token in enumerate(block))
            before = answer[:start]
            if before:
                places = torch.arange(at, at + start).expand(3, -1)
                model(model.embed(torch.tensor([before])), places, cache.append("causal", start))
            drafted = model(model.embed(torch.tensor([block])), where.expand(3, -1), cache.append("block", 4))[0]
            torch.testing.assert_close(found[b, k], drafted[:-1])
            wanted = [answer[start + j] if start + j < len(answer) and block[j] == 2 else -100 for j in range(1, 4)]
            assert rows.draft_targets[b, k].tolist() == wanted


def test_right_says_what_greedy_decoding_writes(model, packed):
    """Teach the truth to be what greedy decoding writes for one question: that one is right, and no other answer is."""
    scene, positions, vision, *_ = packed
    cache, last, at = alone(model, scene, positions, vision, 0, QUESTIONS[1])
    greedy, logits = [], model.logits(last)
    for i in range(3):
        greedy.append(int(logits.argmax()))
        step = model(model.embed(torch.tensor([[greedy[-1]]])), torch.full((3, 1), at + i), cache.append("causal", 1))
        logits = model.logits(step[0, 0])
    wrong = [*greedy[:2], (greedy[2] + 1) % 60]
    phrases = Phrases.of(QUESTIONS, [greedy, wrong])
    laid = assemble(scene[:1], positions, phrases, torch.tensor([[1, 1]]), torch.tensor([[0, 1]]), 0, 2, None)
    assert right(model, laid, vision[:1]).tolist() == [[True, False]]


def test_loss_falls_with_training_and_reaches_only_what_is_asked(small_config, packed):
    scene, positions, vision, questions, answers, rows, _ = packed
    torch.manual_seed(0)
    model = VisionLanguageModel(small_config).double()
    clean, draft = losses(model, rows, vision)
    (clean + draft).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.model.language_model.layers.parameters())
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(15):
        optimiser.zero_grad()
        sum(losses(model, rows, vision)).backward()
        optimiser.step()
    after = losses(model, rows, vision)
    assert after[0] < 0.7 * clean and after[1] < 0.7 * draft
