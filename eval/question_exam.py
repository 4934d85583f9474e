"""The examination of a question model on a held-out half: exact answers, and what decoding them costs.

Exactness is found by teacher forcing (`planning/train/question_rows.right`), which says the same as greedy decoding at
a fraction of the cost.  Some questions are then asked as a user does, one by one and streamed, with the decoder that
ships: their texts must agree with that, and they give tokens per forward and milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from efficientgen.eval.provenance import provenance
from efficientgen.eval.question_score import CONTROL, MODEL, UNSEEN, Truth, means, score_questions, without_looking
from efficientgen.perception.types import Command
from efficientgen.planning.adapter import is_adapter, load_adapted, sha256_of
from efficientgen.planning.checkpoint import CheckpointError, read_config
from efficientgen.planning.dvlm import DVLM
from efficientgen.planning.load import ADAPTER
from efficientgen.planning.tokenizer import Tokenizer
from efficientgen.planning.train.question_data import Phrasebook, Scenes, Types, load_scenes, load_types
from efficientgen.planning.train.questions import grade

UNSEEN_EVERY = 3  # of the moments, the share that is asked in the wordings never taught


def examine(
    data: Path,
    model: Path,
    control: Path | None,
    streamed: int,
    say: Callable[[str], None],
    device: str = "cpu",
    base: Path | None = None,
) -> dict[str, Any]:
    """The result of `efficientgen eval questions` as JSON-like data.

    `base` is the directory of the model that the adapters change, where it is not the shipped one.  Questions that are
    asked one by one run on the CPU, as `ask` does.

    Raises:
        CheckpointError: `model` or `control` is no adapter.
        QuestionSetError: there is no set in `data`.
    """
    types = load_types(data)
    right: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {}
    scenes: Scenes | None = None
    for who, directory in ((MODEL, model), (CONTROL, control)):
        if directory is None:
            continue
        if not is_adapter(directory):
            raise CheckpointError(f"{directory} holds no {ADAPTER}: train one with `efficientgen train questions`")
        config = read_config(directory)
        weights = load_adapted(directory, device=device, base=base)
        assert weights.config.vision is not None
        stem = weights.config.vision.depth - config["training"]["vision_blocks"]
        book = Phrasebook(types, Tokenizer.load(directory), stem, config["training"]["blind"])
        scenes = scenes or load_scenes(data, "heldout", weights, stem)  # the control has the same stem
        about[who] = {"sha256": sha256_of(directory / ADAPTER), **config["adapter"], "training": config["training"]}
        about[who].pop("rows")
        for answerer, unseen in ((who, False), (UNSEEN, True))[: 2 if who == MODEL else 1]:
            kept = data / "grades" / f"{about[who]['sha256'][:16]}{'-unseen' * unseen}.npy"
            if not kept.exists():  # an interrupted examination goes on
                marks = grade(weights, book, scenes, unseen, every=UNSEEN_EVERY if unseen else 1).numpy()
                kept.parent.mkdir(parents=True, exist_ok=True)
                np.save(kept.with_suffix(".new.npy"), marks)
                kept.with_suffix(".new.npy").rename(kept)
            right[answerer] = np.load(kept)
            say(f"{answerer}: {(right[answerer] == 1).sum()} of {(right[answerer] >= 0).sum()} right")
    assert scenes is not None
    truth = Truth(scenes.answers.numpy(), scenes.command.numpy(), scenes.drives)
    right |= without_looking(_train_truth(data), truth)
    rows = score_questions(types.names, types.answers, truth, right)
    return {
        "result": "questions",
        **provenance(),
        "models": about,
        "heldout": {"moments": len(scenes), "drives": len(set(scenes.drives))},
        "answerers": list(right),
        "mean over types": {who: means(rows, who) for who in right},
        "not above the control": [name for name, row in rows.items() if not row.get("above", True)],
        "types": rows,
        "streamed": _streamed(data, model, base, types, scenes, right[MODEL], streamed, say) if streamed else None,
    }


def _train_truth(data: Path) -> Truth:
    """What the two counting answerers know: the training half without its pictures."""
    shards = sorted((data / "train").glob("*.answers.npy"))
    answers = np.concatenate([np.load(path) for path in shards]).astype(np.int64)
    command = np.concatenate([np.load(str(path).replace(".answers.", ".command.")) for path in shards])
    return Truth(answers, command.astype(np.int64), [""] * len(answers))


def _streamed(
    data: Path, directory: Path, base: Path | None, types: Types, scenes: Scenes, right: np.ndarray, count: int,
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Ask `count` questions one by one: agreement with the grade, tokens per forward, milliseconds, by decoder."""
    asked = np.argwhere(right >= 0)
    chosen = asked[np.random.default_rng([0, *b"streamed"]).choice(len(asked), min(count, len(asked)), replace=False)]
    pictures = [
        np.load(path, mmap_mode="r") for path in sorted((data / "heldout").glob("*.pictures.npy"))
    ]  # in the order of `load_scenes`
    ends = np.cumsum([len(p) for p in pictures])
    out: dict[str, Any] = {}
    for decoder in ("ar", "self-spec"):
        model = DVLM.from_pretrained(directory, decoder=decoder, base=base)
        rows = []
        for moment, t in chosen.tolist():
            shard = int(np.searchsorted(ends, moment, side="right"))
            pair = np.array(pictures[shard][moment - (int(ends[shard - 1]) if shard else 0)])  # (2, 3, H, W, 3)
            wordings = types.wordings[t][:-1]
            question = wordings[(moment + t) % len(wordings)]
            command = list(Command)[int(scenes.command[moment])]
            reply = model.ask([pair[:, c] for c in range(3)], question, command)
            said = reply.text == types.answers[t][int(scenes.answers[moment, t])]
            rows.append((said == bool(right[moment, t]), reply.tokens, reply.counts.forwards, reply.seconds))
        seconds = {stage: float(np.median([r[3][stage] for r in rows])) for stage in rows[0][3]}
        tokens, forwards = sum(r[1] for r in rows), sum(r[2] for r in rows)
        out[decoder] = {
            "questions": len(rows),
            "as graded": sum(r[0] for r in rows),
            "tokens": tokens,
            "forwards": forwards,
            "tokens_per_forward": round(tokens / forwards, 3),
            "median_ms": {stage: round(1e3 * s, 2) for stage, s in seconds.items()},
        }
        say(f"{decoder}: {out[decoder]}")
    out["threads"] = torch.get_num_threads()
    return out
