"""Tokenizers: train a small SentencePiece model in DeBERTa-v3's layout, and open any tokenizer with checks.

DeBERTa-v3 (arXiv 2111.09543) uses a SentencePiece unigram model with [PAD], [CLS], [SEP], [UNK] as ids 0 to 3
and a [MASK].
"""

from __future__ import annotations

import io
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import sentencepiece
from google.protobuf.message import DecodeError
from tokenizers import Regex, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

try:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto
except Exception as error:  # which one depends on protobuf's release
    raise ImportError(
        f"protobuf {version('protobuf')} is too old for sentencepiece {version('sentencepiece')}: upgrade protobuf, or "
        f"install sentencepiece 0.2.2, whose messages every protobuf since 4.25 reads ({error})"
    ) from error

MODEL_FILE = "spm.model"
VOCABULARY_FILES = (MODEL_FILE, "tokenizer.json", "vocab.json", "vocab.txt")
SEED_FILE = "seed_sentencepieces_file"  # field of SentencePiece's trainer: pieces to start from
SPECIAL_PIECES = 5  # [PAD], [CLS], [SEP], [UNK], [MASK]
WORD_START = "\u2581"  # SentencePiece's mark for the space before a word


def train_tokenizer(texts: Iterable[str], folder: Path, vocab_size: int) -> None:
    """Train a SentencePiece unigram model and write it in DeBERTa-v3's layout; equal texts give equal bytes.

    Args:
        texts: The training texts, in a fixed order.
        folder: Where ``spm.model``, ``config.json`` and ``tokenizer_config.json`` go.
        vocab_size: Upper bound of the number of pieces; a small corpus gives fewer.

    Raises:
        ValueError: There is no text, or ``vocab_size`` does not hold its characters.
    """
    lines = [text for text in texts if text.strip()]
    if not lines:
        raise ValueError(f"{folder}: no text to train a tokenizer on; give at least one that is not empty")
    words = count_words(lines)
    needed = len(set("".join(words)) | {WORD_START}) + SPECIAL_PIECES
    if vocab_size < needed:
        raise ValueError(f"{folder}: vocab_size {vocab_size} is too small, the texts' characters alone take {needed}")
    # SentencePiece seeds its pieces from substrings that several words share: in a small world, with each
    # word unlike the others, most words would fall apart. Where all words fit, they are the seeds.
    seeds = words if len(words) + needed <= vocab_size else Counter[str]()
    model = train_unigram(lines, seeds, vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL_FILE).write_bytes(model)
    write_json(folder / "config.json", {"model_type": "deberta-v2"})
    settings = {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": False, "vocab_type": "spm"}
    write_json(folder / "tokenizer_config.json", settings)


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write a small JSON file with sorted keys."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def count_words(lines: Iterable[str]) -> Counter[str]:
    """Count words (with the mark of a word's start) and punctuation, normalised as the trainer does."""
    normalise = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc", escape_whitespaces=False).normalize
    counts: Counter[str] = Counter()
    for line in lines:
        for word in normalise(line).split():
            first, *others = re.findall(r"\w+|[^\w\s]+", word)
            counts.update([WORD_START + first, *others])
    return counts


def train_unigram(lines: list[str], seeds: Counter[str], vocab_size: int) -> bytes:
    """Return a serialised SentencePiece unigram model with DeBERTa-v3's special pieces."""
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        seed_file = Path(folder) / "seeds.tsv"
        seed_file.write_text("".join(f"{piece}\t{count}\n" for piece, count in sorted(seeds.items())), encoding="utf-8")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="nmt_nfkc",
            seed_sentencepieces_file=str(seed_file) if seeds else "",
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            pad_piece="[PAD]",
            bos_piece="[CLS]",
            eos_piece="[SEP]",
            unk_piece="[UNK]",
            user_defined_symbols=["[MASK]"],
            num_threads=1,  # more threads sum in another order: other bytes
            minloglevel=2,
        )
    return without_seed_file(ModelProto.FromString(model.getvalue()))


def without_seed_file(model: ModelProto) -> bytes:
    """Serialise a SentencePiece model without the name of its seed file, which is temporary: other bytes each time.

    The messages of sentencepiece before 0.2.3 do not know the field, although its trainer writes it.
    """
    spec = model.trainer_spec
    if SEED_FILE in spec.DESCRIPTOR.fields_by_name:
        spec.ClearField(SEED_FILE)
    else:
        spec.DiscardUnknownFields()
    return bytes(model.SerializeToString(deterministic=True))


def load_tokenizer(name_or_folder: str) -> PreTrainedTokenizerBase:
    """Open a tokenizer of the hub or of a folder, and refuse one that cannot work.

    A SentencePiece model's own normaliser is put in place of transformers' NFC, so that the ids are
    SentencePiece's.

    Raises:
        FileNotFoundError: There is no such folder or hub name, or the folder lacks its vocabulary or
            configuration.
        ValueError: Special tokens are missing, or its own words come back as unknown.
    """
    check_folder(name_or_folder)
    try:
        # no code of a folder is run, and nobody is asked whether it may be
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name_or_folder, trust_remote_code=False)
    except Exception as error:  # of a damaged vocabulary, tokenizers and sentencepiece raise Exception itself
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileNotFoundError(
            f"tokenizer {name_or_folder!r} cannot be opened (folder or hub name): {reason}"
        ) from error
    missing = [name for name in ("pad", "cls", "sep", "unk", "mask") if getattr(tokenizer, f"{name}_token_id") is None]
    if missing:
        raise ValueError(f"tokenizer {name_or_folder!r} has no special tokens for {missing}; choose one that has them")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model_file = cached_file(name_or_folder, MODEL_FILE, _raise_exceptions_for_missing_entries=False)
    if model_file is not None and backend is not None:
        try:
            backend.normalizer = model_normalizer(Path(model_file))
        except Exception as error:  # tokenizers raises Exception itself, protobuf an error of its own
            raise ValueError(f"{model_file} is not a SentencePiece model: {error}; bring back a copy") from error
    check_vocabulary(name_or_folder, tokenizer)
    return tokenizer


def check_folder(name_or_folder: str) -> None:
    """Raise FileNotFoundError for a path that is not a folder and for a folder without a tokenizer's files.

    A damaged SentencePiece model is a ValueError.
    """
    folder = Path(name_or_folder)
    if not folder.is_dir():
        if folder.is_absolute() or name_or_folder.startswith(".") or name_or_folder.count("/") > 1:  # no hub name
            raise FileNotFoundError(f"tokenizer folder {folder} not found (make data-toy makes the embedded world's)")
        return
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        raise FileNotFoundError(f"tokenizer folder {folder} holds none of {', '.join(VOCABULARY_FILES)}")
    if not any((folder / name).is_file() for name in ("config.json", "tokenizer_config.json")):
        # transformers would guess the class, and a wrong one silently answers [UNK] to everything
        raise FileNotFoundError(
            f"tokenizer folder {folder} lacks config.json, which says whose vocabulary this is: write "
            '{"model_type": "bert"} into it, or deberta-v2 of DeBERTa-v3, roberta of RoBERTa'
        )
    if (folder / MODEL_FILE).is_file():
        check_model(folder / MODEL_FILE)


def check_model(file: Path) -> None:
    """Raise ValueError for a damaged SentencePiece model; transformers would take it for a file of another kind."""
    try:
        pieces = len(ModelProto.FromString(file.read_bytes()).pieces)
    except DecodeError as error:
        raise ValueError(f"{file} is not a SentencePiece model: {error}; bring back a copy") from error
    if not pieces:
        raise ValueError(f"{file} is not a SentencePiece model: it has no pieces; bring back a copy")


def model_normalizer(model_file: Path) -> normalizers.Normalizer:
    """Return the normaliser that a SentencePiece model carries: its character map, then single spaces."""
    model = ModelProto.FromString(model_file.read_bytes())
    steps: list[normalizers.Normalizer] = []
    if model.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap))
    steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    return normalizers.Sequence(steps)


def check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ValueError if the tokenizer does not know its own words (a vocabulary file that was not read)."""
    special = set(tokenizer.all_special_ids)
    ordinary = [index for index in range(len(tokenizer)) if index not in special][:100]
    text = tokenizer.convert_tokens_to_string(list(tokenizer.convert_ids_to_tokens(ordinary)))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if all(index == tokenizer.unk_token_id for index in ids):
        raise ValueError(
            f"tokenizer {name!r} answers [UNK] to everything: its vocabulary was not read; check its files"
        )
