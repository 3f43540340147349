"""BERT's WordPiece tokenizers, trained on the data at hand (arXiv 1810.04805); VLMo reads bert-base-uncased's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import BertWordPieceTokenizer

from datamodules.tokenizers import write_json

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
VOCABULARY_FILE = "vocab.txt"
MOST_CHARACTERS = 1000  # BERT's limit
LEAST = 2  # occurrences of what becomes a piece; all characters do


def train_wordpiece(texts: Iterable[str], folder: Path, vocab_size: int, lower_case: bool = True) -> None:
    """Train a WordPiece vocabulary and write it in BERT's layout; equal texts give equal bytes.

    Args:
        texts: The training texts, in a fixed order.
        folder: Where ``vocab.txt``, ``config.json`` and ``tokenizer_config.json`` go.
        vocab_size: Upper bound of the number of pieces; a small corpus gives fewer.
        lower_case: Read upper case as lower case, and leave out accents.

    Raises:
        ValueError: There is no text, or ``vocab_size`` does not hold its characters.
    """
    lines = [text for text in texts if text.strip()]
    if not lines:
        raise ValueError(f"{folder}: no text to train a tokenizer on; give at least one that is not empty")
    tokenizer = BertWordPieceTokenizer(lowercase=lower_case)
    # the trainer numbers characters as its hash table has them, other each time, and breaks ties by the numbers: given
    # as special tokens they have their numbers before
    known = [*SPECIAL, *characters(tokenizer, lines)]
    tokenizer.train_from_iterator(
        lines,
        vocab_size=vocab_size,
        min_frequency=LEAST,
        special_tokens=known,
        show_progress=False,
    )
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    if len(vocabulary) > vocab_size:
        raise ValueError(
            f"{folder}: vocab_size {vocab_size} is too small, the texts' characters alone take {len(vocabulary)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    pieces = sorted(vocabulary, key=lambda piece: vocabulary[piece])
    (folder / VOCABULARY_FILE).write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    write_json(folder / "config.json", {"model_type": "bert"})
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": lower_case})


def characters(tokenizer: BertWordPieceTokenizer, lines: Iterable[str]) -> list[str]:
    """Return the characters of the words, sorted, and as pieces those within words; the rarest are left out."""
    normalise, cut = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    words = Counter(word for line in lines for word, _ in cut(normalise(line)))
    counts: Counter[str] = Counter()
    inner: set[str] = set()
    for word, count in words.items():
        counts.update(dict.fromkeys(word, count))
        inner.update(word[1:])
    kept = sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:MOST_CHARACTERS])
    return [*kept, *(f"##{letter}" for letter in kept if letter in inner)]
