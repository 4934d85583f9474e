"""What tuning found is kept: the next load takes it, another machine or model does not, and damage is no harm."""

from pathlib import Path

import pytest

from efficientgen.kernels.skinny import Tile
from efficientgen.planning.engine_file import Tuning, directory, tuned

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
    first.ways[32, 32, 2560] = (128, 64)
    first.keep()
    again = tuned(key, never)
    assert (again.choices, again.ways) == (CHOICES, {(32, 32, 2560): (128, 64)})
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
