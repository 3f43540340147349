"""WordPiece: whole words where they fit, BERT's layout, equal bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.tokenizers import load_tokenizer
from datamodules.vocabulary import main
from datamodules.wordpiece import SPECIAL, train_wordpiece
from tests.datamodules.shard_factory import LINES, make_record, write_shards


def test_words_of_the_data_are_one_piece_and_specials_come_first(tmp_path: Path) -> None:
    train_wordpiece(LINES * 3, tmp_path / "tokenizer", 200)
    tokenizer = load_tokenizer(str(tmp_path / "tokenizer"))
    assert tokenizer.convert_ids_to_tokens(range(5)) == list(SPECIAL)
    assert (tokenizer.pad_token_id, tokenizer.mask_token) == (0, "[MASK]")
    assert tokenizer.tokenize("Small RED circle above cross") == ["small", "red", "circle", "above", "cross"]
    ids = tokenizer("small red circle")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)


def test_words_that_are_cut_tell_where_they_begin(tmp_path: Path) -> None:
    train_wordpiece(LINES * 3, tmp_path / "tokenizer", 60)
    tokenizer = load_tokenizer(str(tmp_path / "tokenizer"))
    pieces = tokenizer.tokenize("small circle")
    assert "".join(piece.removeprefix("##") for piece in pieces) == "smallcircle"
    assert sum(not piece.startswith("##") for piece in pieces) == 2


def test_equal_texts_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_wordpiece(LINES * 3, tmp_path / name, 90)
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_too_few_pieces_and_no_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocab_size 6 is too small, the texts' characters alone take"):
        train_wordpiece(LINES, tmp_path, 6)
    with pytest.raises(ValueError, match="no text to train"):
        train_wordpiece([" "], tmp_path, 60)


def test_the_command_trains_either_kind(tmp_path: Path) -> None:
    write_shards(tmp_path / "texts" / "train", "texts", map(make_record, range(12)))
    for kind, file in (("wordpiece", "vocab.txt"), ("sentencepiece", "spm.model")):
        out = tmp_path / kind
        command = [str(tmp_path / "texts" / "train"), "--tokenizer", str(out), "--kind", kind, "--pieces", "120"]
        assert main(command) == 0
        assert (out / file).is_file()
        assert load_tokenizer(str(out)).tokenize("circle")
