"""VQA + LLM with models of transformers: a real server of the protocol, and a real captioner, both tiny."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.inference.chat_server import serve_chat
from vle_lightning.inference import pipeline
from vle_lightning.inference.llm import LLMPipeline

pytestmark = pytest.mark.slow
Exported = Callable[[str], Path]
SECRET = "sk-abc123-never-to-be-seen"
SENTENCE = ["<assistant>", "the", "old", "car", "is", "red", "<end>"]
PICTURE = Image.new("RGB", (60, 40), "red")
START = 600  # seconds that a server may take to come up: it imports all of transformers, perhaps on a busy machine


def write_language_model(folder: Path) -> None:
    """Write a model that says SENTENCE: its layer adds nothing, its output maps each word to the next."""
    words = ["<unknown>", *SENTENCE]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}<assistant>"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", unk_token=words[0], chat_template=template
    ).save_pretrained(folder)
    end = len(words) - 1
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=False, max_position_embeddings=2048, bos_token_id=None, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(words), 16))
        model.lm_head.weight.zero_()
        for number in range(1, end):
            model.lm_head.weight[number + 1, number] = 10.0
    model.save_pretrained(folder)


def write_captioner(folder: Path) -> None:
    """Write a tiny BLIP with random weights."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "red", "car", "dog"]
    (folder / "words").mkdir(parents=True)
    (folder / "words" / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(vocab=str(folder / "words" / "vocab.txt"))
    layers = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **layers, "vocab_size": len(words), "encoder_hidden_size": 16, "max_position_embeddings": 64,
            "bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0,
        },
        vision_config={**layers, "image_size": 32, "patch_size": 16},
    )  # fmt: skip
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm") / "model"
    write_language_model(folder)
    return folder


@pytest.fixture(scope="module")
def server(language_model: Path) -> Iterator[tuple[str, Path]]:
    """Run ``transformers serve``; give its address and its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = language_model.with_name("server.log")
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(language_model)]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--log-level", "debug"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    with log.open("w") as stream:
        process = subprocess.Popen([*command, *options], stdout=stream, stderr=subprocess.STDOUT, env=environment)
        try:
            if not comes_up(f"http://127.0.0.1:{port}/health", process):
                pytest.fail(f"transformers serve did not start: {log.read_text()[-400:]}")
            yield f"http://127.0.0.1:{port}/v1", log
        finally:
            process.terminate()
            process.wait(30)


def comes_up(address: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait for a server; False where its process ends or it takes too long."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return True
        except (URLError, OSError):
            time.sleep(0.3)
    return False


def test_a_real_server_words_the_answer(
    exported: Exported, server: tuple[str, Path], language_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    address, log = server
    ask = pipeline("vqa-llm", exported("vqa"), llm=address, llm_model=str(language_model))
    assert isinstance(ask, LLMPipeline)
    reply = ask.stream(image=PICTURE, question="What colour is the car?", top_k=4)
    pieces = list(reply)
    assert reply.result["reason"] is None
    assert reply.result["answer"] == "the old car is red"
    assert len(pieces) > 1  # it came word by word
    assert SECRET not in log.read_text()


def test_a_refusal_of_a_real_server_leaves_vles_answer(exported: Exported, server: tuple[str, Path]) -> None:
    ask = pipeline("vqa-llm", exported("vqa"), llm=server[0], llm_model="another/model")
    result = ask(image=PICTURE, question="What colour is the car?")
    assert "HTTP" in result["reason"]
    assert result["answer"] == result["answers"][0]["answer"]


def test_a_caption_goes_before_the_question(exported: Exported, tmp_path: Path) -> None:
    write_captioner(tmp_path / "captioner")
    with serve_chat(pieces=("It is red",)) as server:
        options = {"llm": server.address, "llm_model": "stub", "captioner": tmp_path / "captioner"}
        result = pipeline("vqa-llm", exported("vqa"), **options)(image=PICTURE, question="What colour?")  # type: ignore[arg-type]
    assert result["caption"]
    lines = result["prompt"].splitlines()
    assert lines.index(f"Caption of the picture: {result['caption']}") < lines.index("Question: What colour?")
