"""What tuning found is kept: the next load takes it, another machine or model does not, and damage is no harm."""

from pathlib import Path

import pytest

from efficientgen.kernels.skinny import Tile
from efficientgen.planning import engine_tune
from efficientgen.planning.engine import Engine
from efficientgen.planning.engine_file import Tuning, directory, tuned
from efficientgen.planning.engine_layers import PRODUCTS, Step
from efficientgen.planning.engine_tune import Measured, candidates, choose, refine, split_attention
from tests.planning.test_engine import QWEN25, text_model

CHOICES = {("qkv", 1): Tile(16, 256, 1, 4, 4, 4, 64), ("qkv", 8): None, ("down", 8): Tile(32, 64, 4)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return directory()


def never():
    pytest.fail("measured again")


def test_the_second_load_takes_what_the_first_found(cache: Path):
    key = {"gpu": "one", "rows": [1, 8]}
    first = tuned(key, lambda: CHOICES)
    first.ways[32, 32, 2560] = (128, 64, 8)
    first.keep()
    again = tuned(key, never)
    assert (again.choices, again.ways) == (CHOICES, {(32, 32, 2560): (128, 64, 8)})
    assert again.found and not first.found
    assert [path.suffix for path in cache.iterdir()] == [".json"], "no draft is left"


def test_what_the_choice_depends_on_names_the_file():
    tuned({"gpu": "one"}, lambda: CHOICES)
    assert tuned({"gpu": "two"}, dict).choices == {}


@pytest.mark.parametrize("text", ["", "[]", '{"tiles": [["qkv", 1, [16, 256, 1, 4, 4, 4, 64, 9]]], "ways": []}', "{}"])
def test_a_damaged_file_is_measured_anew(cache: Path, text: str):
    tuned({"gpu": "one"}, lambda: {})
    (path,) = cache.iterdir()
    path.write_text(text)
    assert tuned({"gpu": "one"}, lambda: CHOICES).choices == CHOICES
    assert tuned({"gpu": "one"}, never).choices == CHOICES


def test_where_nothing_can_be_written_it_is_said(cache: Path):
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the directory should be")
    with pytest.warns(UserWarning, match="XDG_CACHE_HOME"):
        assert tuned({"gpu": "one"}, lambda: CHOICES).choices == CHOICES
    Tuning(CHOICES).keep()


def test_what_makes_whole_forwards_faster_is_taken(monkeypatch):
    """Alone the library is the faster for `down`, in a forward it costs its neighbour more; `qkv` stays as it was."""
    engine = Engine(text_model(QWEN25), 64, rows=(8,))
    step, tiles = Step(engine.weights, 8, 8, 64), candidates("down", 8)
    alone = [Measured(name, 8, None, 5.0) for name in PRODUCTS]
    alone += [Measured("down", 8, tiles[0], 5.2), Measured("down", 8, tiles[1], 6.0), Measured("qkv", 8, tiles[0], 9.0)]
    choices = {(name, 8): None for name in PRODUCTS}

    def us(work) -> float:
        work()
        return {None: 300.0, tiles[0]: 280.0, tiles[1]: 279.9}[work.func.__self__.choices["down", 8]]

    monkeypatch.setattr(engine_tune, "_graphed_us", lambda engine, work: us(work))
    told = refine(engine, step, choices, alone)
    assert choices["down", 8] == tiles[0] and choices["qkv", 8] is None, "0.04 % is noise"
    assert [m.name for m in told][:3] == ["forward", "forward with down", "forward with down"]


def test_every_product_is_measured_for_every_number_of_rows(monkeypatch):
    engine = Engine(text_model(QWEN25), 64, rows=(1, 8))
    monkeypatch.setattr(engine_tune, "_graphed_us", lambda engine, work: work() or 1.0)
    choices, told = choose(engine, engine.rows, libraries_only=True)
    assert choices == {(name, rows): None for name in PRODUCTS for rows in (1, 8)} and len(told) == 8
    way = split_attention(engine, step := Step(engine.weights, 8, 8, 64))
    assert (step.chunk, step.held, step.warps) == way
