"""Qwen's vocabulary from every source it may come from: the same ids, bytes and alphabets, or words on what to do."""

import base64
import json

import pytest

from efficientgen.planning import qwen_tokenizer
from efficientgen.planning.qwen_tokenizer import FIRST_SPECIAL, SPECIALS, from_ranks, installed_ranks, load_qwen
from efficientgen.planning.tokenizer import IM_START, IMAGE_PAD, MASK, NULL, Tokenizer, TokenizerError, load_tokenizer
from tests.planning.tiny_release import tiny_backend, tiny_tokenizer

TEXTS = (
    "The road is clear.",
    'He said "stop" at 12.5 m, didn\'t he?\n\n  Yes — naïve café, 東京, 🚗🚗!',
    " +014.70, -000.04], [ +029.39",
    "tab\tand\r\nline ends \n \n   and trailing   ",
    "e\u0301 is composed",
    "<|im_start|>user\nx<|im_end|><|NULL|>|<MASK>|",
)


@pytest.fixture(scope="module")
def real():
    path = installed_ranks()
    if path is None:
        pytest.skip("Qwen's vocabulary is not installed: pip install tiktoken; pip install --no-deps dashscope")
    pytest.importorskip("tiktoken")
    return from_ranks(path)


def test_the_real_vocabulary_has_the_releases_ids(real):
    names = {MASK: 151665, NULL: 151666, IM_START: 151644, "<|im_end|>": 151645, "<|endoftext|>": 151643,
             "<|vision_start|>": 151652, "<|vision_end|>": 151653, "<|vision_pad|>": 151654, IMAGE_PAD: 151655,
             "<|video_pad|>": 151656}  # fmt: skip
    assert {name: real.id_of(name) for name in names} == names
    assert real.vocab_size == FIRST_SPECIAL + len(SPECIALS) == 151667
    assert real.encode(IM_START + "assistant\n") == [151644, 77091, 198]
    assert real.id_of(" +") != real.id_of("+")


def test_the_real_alphabets_keep_json_whole(real):
    """Any text the model may write, quoted, is a JSON string; even where the bytes are no UTF-8."""
    text = real.alphabets["text"]
    assert 140_000 < len(text) < 151_643
    assert real.id_of(NULL) in text and not {real.id_of(t) for t in ('"', "\\", "\n", MASK, "<|im_end|>")} & set(text)
    for start in range(0, len(text), 5000):
        assert isinstance(json.loads('"' + real.decode(text[start : start + 5000]) + '"'), str)
    assert [real.decode([i]) for i in real.alphabets["sign"]] == [" +", " -"]
    assert "".join(real.decode([i]) for i in real.alphabets["digit"]) == "0123456789"


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_encoded_is_read_back(real, tmp_path, text):
    for tokenizer in (real, tiny_tokenizer(tmp_path)):
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace("e\u0301", "é")


def test_every_source_gives_the_same_ids(tmp_path):
    """One vocabulary as tokenizer.json, as vocab.json with merges.txt, and as a rank file."""
    pytest.importorskip("tiktoken")
    whole = tiny_tokenizer(tmp_path / "json")
    described = json.loads(tiny_backend().to_str())
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "vocab.json").write_text(json.dumps(described["model"]["vocab"]))
    (parts / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in described["model"]["merges"]))
    files = load_tokenizer(parts)
    ranks = sorted(described["model"]["vocab"].items(), key=lambda item: item[1])
    spelled = qwen_tokenizer._byte_alphabet()
    lines = [base64.b64encode(bytes(spelled[c] for c in token)) + b" %d" % rank for token, rank in ranks]
    (tmp_path / "tiny.tiktoken").write_bytes(b"\n".join(lines))
    table = from_ranks(tmp_path / "tiny.tiktoken")
    for text in TEXTS:
        assert whole.encode(text) == files.encode(text) == table.encode(text)
    for other in (files, table):
        assert whole.alphabets == other.alphabets and whole.vocab_size == other.vocab_size
    (parts / "added_tokens.json").write_text(json.dumps({MASK: 5}))
    with pytest.raises(TokenizerError, match="do not belong together"):
        load_tokenizer(parts)


def test_a_base_models_file_gets_mask_and_filler(tmp_path):
    """The parents' tokenizer.json ends with <|file_sep|>; the two ids behind it are the releases'."""
    described = json.loads(tiny_backend().to_str())
    described["added_tokens"] = [t for t in described["added_tokens"] if t["content"] not in (MASK, NULL)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    tokenizer = load_qwen(tmp_path)
    assert [tokenizer.id_of(t) for t in (MASK, NULL)] == [tiny_backend().token_to_id(t) for t in (MASK, NULL)]


def test_the_directory_decides_which_tokenizer_it_is(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert isinstance(load_tokenizer(tmp_path), Tokenizer)
    assert load_tokenizer(tmp_path).alphabets == tokenizer.alphabets


def test_no_vocabulary_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr(qwen_tokenizer, "SOURCES", {"no_such_package": "qwen.tiktoken"})
    with pytest.raises(TokenizerError, match="pip install"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"model": {"type": "BPE"}}', b"\xff\xfe"])
def test_damaged_files_are_told(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match="fetch"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("lines", [b"QQ== 0\nQg== 2", b"QQ==", b"QQ== 0\nQQ== 1", b"!! x"])
def test_damaged_rank_files_are_told(tmp_path, lines):
    pytest.importorskip("tiktoken")
    (tmp_path / "bad.tiktoken").write_bytes(lines)
    with pytest.raises(TokenizerError, match="pip install"):
        from_ranks(tmp_path / "bad.tiktoken")


def test_a_vocabulary_without_signs_cannot_write_answers(tmp_path):
    described = json.loads(tiny_backend().to_str())
    described["model"]["merges"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(TokenizerError, match="tokens in the vocabulary"):
        _ = load_qwen(tmp_path).alphabets
