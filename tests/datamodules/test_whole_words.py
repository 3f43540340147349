"""Whole-word masking with each kind of tokenizer: the pieces of a word are masked together, words apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase

from datamodules.masking import mask_tokens
from datamodules.texts import Tokens, tokenise
from datamodules.tokenizers import load_tokenizer, train_tokenizer
from vle_lightning.batch import IGNORED

LINES = ("small red circle above green square", "under yellow cross", "blue triangle under red square") * 8
TEXTS = ("small redcircle above greensquare", "under yellowcross, bluetriangle. small above")
PIECES = 75  # so few that the longer words fall apart

Train = Callable[[Path], None]


def save(tokenizer: Tokenizer, folder: Path, names: dict[str, str]) -> None:
    """Write a tokenizer with the names of its special tokens, as transformers reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **{f"{key}_token": name for key, name in names.items()}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def train_word_piece(folder: Path) -> None:
    """BERT: continued pieces begin with ##."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = sorted(set("".join((*LINES, *TEXTS))) - {" "})
    trainer = trainers.WordPieceTrainer(vocab_size=PIECES, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*LINES, *(" ".join(text) for text in TEXTS)], trainer)
    vocabulary = tokenizer.get_vocab()
    for letter in alphabet:  # so that no word of the tests is unknown
        vocabulary.setdefault(f"##{letter}", len(vocabulary))
    tokenizer.model = models.WordPiece(vocabulary, unk_token="[UNK]")
    pairs = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=pairs
    )
    tokenizer.decoder = decoders.WordPiece()
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    save(tokenizer, folder, names)


def train_byte_pairs(folder: Path) -> None:
    """RoBERTa: pieces that begin a word, but not the text, have its space with them."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + 25, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(LINES, trainer)
    vocabulary = tokenizer.get_vocab()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]), add_prefix_space=False
    )
    tokenizer.decoder = decoders.ByteLevel()
    names = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
    save(tokenizer, folder, names)


def train_sentence_piece(folder: Path) -> None:
    """DeBERTa-v3: pieces that begin a word begin with a mark for its space."""
    train_tokenizer([*LINES, *(" ".join(text) for text in TEXTS)], folder, PIECES)


@pytest.fixture(params=[train_word_piece, train_byte_pairs, train_sentence_piece], ids=lambda train: train.__name__)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> PreTrainedTokenizerBase:
    train: Train = request.param
    train(tmp_path / "tokenizer")
    return load_tokenizer(str(tmp_path / "tokenizer"))


def spaced(texts: Sequence[str], tokens: Tokens) -> list[list[list[int]]]:
    """Return the tokens of each word by the spaces of the texts: an account of its own, by characters."""
    words = []
    for row, text in enumerate(texts):
        inside = np.flatnonzero(~tokens.special[row])
        number = [text[: tokens.last[row, place] + 1].count(" ") for place in inside]
        words.append([inside[np.array(number) == word].tolist() for word in sorted(set(number))])
    return words


def masks(opened: PreTrainedTokenizerBase, tokens: Tokens, seed: int) -> np.ndarray:
    mask_id = opened.mask_token_id
    assert isinstance(mask_id, int)
    _, targets = mask_tokens(
        tokens.ids,
        tokens.special,
        np.random.default_rng(seed),
        mask_id=mask_id,
        ordinary=np.arange(5, 60),
        share=0.4,
        word_starts=tokens.word_starts,
    )
    chosen: np.ndarray = targets != IGNORED
    return chosen


def test_the_pieces_of_a_word_are_masked_together(opened: PreTrainedTokenizerBase) -> None:
    texts = [text.replace(",", "").replace(".", "") for text in TEXTS]
    tokens = tokenise(opened, texts, 60)
    words = spaced(texts, tokens)
    assert [len(row) for row in words] == [4, 5]
    assert max(len(word) for row in words for word in row) > 1  # some word has fallen apart
    together = {True: 0, False: 0}
    for seed in range(60):
        chosen = masks(opened, tokens, seed)
        for row, of_row in enumerate(words):
            states = [set(chosen[row, word].tolist()) for word in of_row]
            assert all(len(state) == 1 for state in states)
            for one, other in zip(states, states[1:], strict=False):
                together[one == other] += 1
        assert not chosen[tokens.special].any()
    share = together[False] / sum(together.values())
    assert abs(share - 2 * 0.4 * 0.6) < 0.08  # neighbours are drawn apart: 420 pairs, a deviation of 0.024


def test_words_are_drawn_as_often_as_they_should_be(opened: PreTrainedTokenizerBase) -> None:
    tokens = tokenise(opened, list(TEXTS) * 100, 60)
    starts = tokens.word_starts
    assert abs(masks(opened, tokens, 0)[starts].mean() - 0.4) < 5 * np.sqrt(0.24 / starts.sum())


def test_punctuation_is_no_part_of_a_word_where_the_tokenizer_splits_it_off(tmp_path: Path) -> None:
    for train in (train_word_piece, train_byte_pairs):
        train(tmp_path / train.__name__)
        opened = load_tokenizer(str(tmp_path / train.__name__))
        tokens = tokenise(opened, ["under yellowcross, small."], 60)
        text, starts = "under yellowcross, small.", np.flatnonzero(tokens.word_starts[0])
        bounds = [*starts, int((~tokens.special[0]).sum()) + 1]
        ends = [text[: tokens.last[0, end - 1] + 1] for end in bounds[1:]]
        assert ends == ["under", "under yellowcross", "under yellowcross,", "under yellowcross, small", text]
