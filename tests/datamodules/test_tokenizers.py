"""Tokenizers: trained ones are SentencePiece's equal, broken ones are refused."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import sentencepiece
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase

from datamodules import tokenizers
from datamodules.tokenizers import load_tokenizer, train_tokenizer, without_seed_file

TEXTS = [
    f"{size} {colour} {shape}, left of a square"
    for size in ("small", "large")
    for colour in ("red", "green", "blue")
    for shape in ("circle", "star")
]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a tokenizer on a world of a dozen words."""
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, path, vocab_size=100)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Open it."""
    return load_tokenizer(str(folder))


def test_special_tokens_have_debertas_ids(tokenizer: PreTrainedTokenizerBase) -> None:
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL] == [0, 1, 2, 3, 4]
    ids = tokenizer("red", "star")["input_ids"]
    assert [ids[0], ids[2], ids[4]] == [1, 2, 2]
    assert tokenizer("red [MASK]")["input_ids"][2] == tokenizer.mask_token_id


def test_words_of_a_small_world_stay_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.tokenize("large green circle, left") == ["▁large", "▁green", "▁circle", ",", "▁left"]


@pytest.mark.parametrize(
    "text",
    [
        "small  red star",
        " red ",
        "ｒｅｄ star",
        "red\tstar\n",
        "ﬁne, unknown?",
        "\u3000red",
        "",
        "RED",
        "re\u200bd",
    ],
)
def test_ids_are_those_of_sentencepiece(folder: Path, tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == reference.encode(text)


def test_equal_texts_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    train_tokenizer(iter(TEXTS), tmp_path, vocab_size=100)
    for name in ("spm.model", "config.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_corpus_with_more_words_than_pieces_is_cut_into_pieces(tmp_path: Path) -> None:
    words = [a + b + c for a in ("ba", "lo", "ti") for b in ("mu", "se", "") for c in ("ra", "ki", "no")]
    train_tokenizer([" ".join(words)] * 3, tmp_path, vocab_size=30)
    tokenizer = load_tokenizer(str(tmp_path))
    assert len(tokenizer) <= 30
    assert tokenizer.unk_token_id not in tokenizer("bamuki loseno")["input_ids"]


def test_bad_training_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text"):
        train_tokenizer(["", "  "], tmp_path, vocab_size=100)
    with pytest.raises(ValueError, match="vocab_size 10 is too small"):
        train_tokenizer(TEXTS, tmp_path, vocab_size=10)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "holds none of spm.model"),
        (("config.json",), "holds none"),
        (("spm.model",), r'lacks config.json, .* write \{"model_type": "bert"\} into it'),
    ],
)
def test_a_folder_that_lacks_a_file_is_named(
    folder: Path, tmp_path: Path, files: tuple[str, ...], message: str
) -> None:
    for name in files:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(FileNotFoundError, match=message):
        load_tokenizer(str(tmp_path))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere not found.*make data-toy"):
        load_tokenizer(str(tmp_path / "nowhere"))


def write_fast_tokenizer(folder: Path, vocabulary: list[str], **settings: str) -> None:
    """Write a tokenizer.json with a word vocabulary."""
    vocab = {token: number for number, token in enumerate(vocabulary)}
    Tokenizer(models.WordLevel(vocab, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    tokens = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    content = {"tokenizer_class": "PreTrainedTokenizerFast", **tokens, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps({key: value for key, value in content.items() if value}))


def test_a_tokenizer_that_knows_no_word_is_refused(tmp_path: Path) -> None:
    write_fast_tokenizer(tmp_path, SPECIAL)
    with pytest.raises(ValueError, match=r"answers \[UNK\] to everything"):
        load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_a_mask_token_is_refused(tmp_path: Path) -> None:
    write_fast_tokenizer(tmp_path, [*SPECIAL, "red"], mask_token="")
    with pytest.raises(ValueError, match=r"no special tokens for \['mask'\]"):
        load_tokenizer(str(tmp_path))


def with_seed_file(model: bytes, name: str) -> bytes:
    """Set field 54 of message 2, in bytes: the messages of sentencepiece 0.2.1 and 0.2.2 do not declare it."""
    field = bytes([54 << 3 & 0x7F | 2 | 0x80, 54 >> 4, len(name)]) + name.encode()
    return model + bytes([2 << 3 | 2, len(field)]) + field  # messages that occur twice are merged


def test_the_messages_of_older_sentencepiece_releases_give_the_same_bytes(folder: Path) -> None:
    written = descriptor_pb2.FileDescriptorProto()
    ModelProto.DESCRIPTOR.file.CopyToProto(written)
    spec = next(message for message in written.message_type if message.name == "TrainerSpec")
    for index, field in enumerate(spec.field):
        if field.name == "seed_sentencepieces_file":
            assert field.number == 54
            del spec.field[index]
            break
    pool = descriptor_pool.DescriptorPool()
    pool.Add(written)
    older = message_factory.GetMessageClass(pool.FindMessageTypeByName("sentencepiece.ModelProto"))
    expected = (folder / "spm.model").read_bytes()
    for number, messages in enumerate((ModelProto, older)):
        seeded = messages.FromString(with_seed_file(expected, f"temporary folder {number}/seeds.tsv"))
        assert seeded.SerializeToString() != expected
        assert without_seed_file(seeded) == expected


def test_messages_that_protobuf_cannot_read_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    with pytest.raises(ImportError, match=r"protobuf [\d.]+ is too old for sentencepiece [\d.]+: upgrade protobuf"):
        runpy.run_path(tokenizers.__file__)


@pytest.mark.parametrize("kept", [0, 10, 500])
def test_a_damaged_vocabulary_is_one_sentence(kept: int, folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "spm.model").write_bytes((folder / "spm.model").read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"{broken}/spm.model is not a SentencePiece model"):
        load_tokenizer(str(broken))


def test_code_of_a_folder_is_neither_run_nor_asked_about(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trapped = shutil.copytree(folder, tmp_path / "trapped")
    (trapped / "trap.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    parts = {"config.json": {"model_type": "trap"}, "tokenizer_config.json": {"tokenizer_class": "Trap"}}
    for name, more in parts.items():
        content = {**json.loads((trapped / name).read_text()), **more}
        content["auto_map"] = {"AutoTokenizer": ["trap.Trap", None], "AutoConfig": "trap.Config"}
        (trapped / name).write_text(json.dumps(content))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    with pytest.raises(FileNotFoundError, match="trapped.* cannot be opened"):
        load_tokenizer(str(trapped))
    assert not (tmp_path / "ran").exists()
