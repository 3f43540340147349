"""VQA + LLM: a language model words the best of VLE's answers, given the question and a caption of the picture."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import torch
from PIL import Image
from transformers import pipeline as transformers_pipeline

from vle_lightning.errors import UserError
from vle_lightning.inference.base import Settings
from vle_lightning.inference.chat import ChatError, ChatServer
from vle_lightning.inference.items import Item, check_count
from vle_lightning.inference.kinds import VQAPipeline
from vle_lightning.inference.pictures import open_picture

INSTRUCTION = (
    "A vision model has looked at a picture and gives candidate answers to a question about it, with probabilities. "
    "Choose the best one, and answer the question with it in one short sentence that holds the candidate word for word."
)
DESCRIBE = "Describe this image in one sentence."
CAPTION_TOKENS = 40  # at most
YES_NO = ("yes", "no")
OPENING = re.compile(r"^\W*(?:(?:the\s+)?answer(?:\s+is)?|it(?:'s|\u2019s|\s+is))\b")  # before a yes or no
SHORT_NOT = re.compile(r"n['\u2019]t\b")
NEGATIONS = frozenset({"not", "cannot", "no", "never", "neither", "nor", "without", "hardly"})
CLAUSE_END = re.compile(r"[,.;:!?]|\b(?:but|only|doubt)\b")
UNREAD = "the reply was not read to its end"


class LLMPipeline(VQAPipeline):
    """Answers questions about pictures in sentences of a language model; without one, VLE's own answer stands."""

    def __init__(self, settings: Settings) -> None:
        """Load a VQA model, and a captioner if one is named.

        Raises:
            UserError: no server is given, or a model cannot be loaded.
        """
        if settings.chat is None:
            raise UserError("llm and llm_model are missing: give the address of a server, and the model to use there")
        super().__init__(settings)
        name = settings.captioner
        captioner = None if name is None else Captioner(name, settings.device, settings.dtype)
        self.language_model = LanguageModel(settings.chat, captioner)

    def __call__(  # type: ignore[override]  # a reply has no attention
        self,
        items: object = None,
        *,
        image: object = None,
        question: object = None,
        top_k: int = 5,
        batch_size: int | None = None,
    ) -> Any:  # noqa: ANN401 (one result or many)
        """Return, for each question, what `LLMReply.result` holds; questions go to the server one after another."""
        check_count("top_k", top_k)
        return self._run(items, partial(self._results, top_k), batch_size, image=image, question=question)

    def stream(self, *, image: object, question: object, top_k: int = 5) -> Any:  # noqa: ANN401 (one or many)
        """Return an `LLMReply` for each question, whose pieces are fetched as they are taken."""
        check_count("top_k", top_k)
        return self._run(None, partial(self._replies, top_k), None, image=image, question=question)

    def _results(self, top_k: int, items: Sequence[Item]) -> list[dict[str, object]]:
        return [reply.result for reply in self._replies(top_k, items)]

    def _replies(self, top_k: int, items: Sequence[Item]) -> list[LLMReply]:
        return [
            self.language_model.reply(item.image, item.read_text("question"), answers)
            for item, answers in zip(items, self._answer(top_k, items), strict=True)
        ]


@dataclass(frozen=True)
class LanguageModel:
    """What words VLE's answers: a server, and a captioner that describes the picture to it."""

    chat: ChatServer
    captioner: Captioner | None = None

    def reply(self, image: object, question: str, answers: Sequence[Mapping[str, object]]) -> LLMReply:
        """Return a reply whose pieces are fetched as they are taken; nothing is sent before the first.

        Args:
            image: any form of a picture that pipelines take.
            question: about it.
            answers: VLE's, the most probable first: {"answer", "score"}.
        """
        caption = None if self.captioner is None else self.captioner(open_picture(image))
        prompt = write_prompt(question, answers, caption)
        return LLMReply(prompt, answers, caption, self.chat.stream(prompt))


class LLMReply:
    """A reply that arrives: iterating gives its pieces, `result` reads what is left and judges the whole."""

    def __init__(
        self, prompt: str, answers: Sequence[Mapping[str, object]], caption: str | None, pieces: Iterator[str]
    ) -> None:
        self.prompt, self.answers, self.caption = prompt, answers, caption
        self.text = ""  # that has arrived
        self.reason: str | None = UNREAD
        self._pieces = self._read(pieces)

    def __iter__(self) -> Iterator[str]:
        """Yield the pieces; none of them is judged yet."""
        yield from self._pieces

    @property
    def result(self) -> dict[str, object]:
        """Return plain types: answer, reply, reason, caption, prompt and answers.

        ``answer`` is the reply, or VLE's best answer where ``reason`` says why the reply is not used (else None).
        """
        for _ in self._pieces:
            pass
        return {
            "answer": self.text.strip() if self.reason is None else self.answers[0]["answer"],
            "reply": self.text,
            "reason": self.reason,
            "caption": self.caption,
            "prompt": self.prompt,
            "answers": list(self.answers),
        }

    def _read(self, pieces: Iterator[str]) -> Iterator[str]:
        try:
            for piece in pieces:
                self.text += piece
                yield piece
        except ChatError as error:
            self.reason = str(error)
        else:
            self.reason = find_fault(self.text, [str(row["answer"]) for row in self.answers])


class Captioner:
    """Describes a picture by a model of transformers' image-text-to-text pipeline (image-to-text of version 4)."""

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype) -> None:
        """Load a model by its folder or hub name.

        Raises:
            UserError: it cannot be loaded, or is no model that writes texts about pictures.
        """
        try:
            self._write = transformers_pipeline("image-text-to-text", model=name, device=device, dtype=dtype)
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"captioner: {name} cannot be loaded as an image-text-to-text model: {reason}") from error
        self.name = name
        self._turn = Lock()  # requests of the demo come from several threads

    def __call__(self, picture: Image.Image) -> str:
        """Return a caption; models that chat are asked for a sentence, others write what they were trained to."""
        with self._turn:
            return self._describe(picture)

    def _describe(self, picture: Image.Image) -> str:
        if getattr(self._write.processor, "chat_template", None):
            parts = [{"type": "image", "image": picture}, {"type": "text", "text": DESCRIBE}]
            found = self._write(text=[{"role": "user", "content": parts}], **self._options)
        else:
            found = self._write(picture, text="", **self._options)
        return " ".join(str(found[0]["generated_text"]).split())

    @property
    def _options(self) -> dict[str, Any]:
        return {"return_full_text": False, "generate_kwargs": {"max_new_tokens": CAPTION_TOKENS, "do_sample": False}}


def write_prompt(question: str, answers: Sequence[Mapping[str, object]], caption: str | None) -> str:
    """Write what goes to the language model: the instruction, the caption if any, the question, VLE's answers."""
    told = [] if not caption else [f"Caption of the picture: {caption}"]
    rows = [f"{number}. {row['answer']} ({row['score']:.3f})" for number, row in enumerate(answers, 1)]
    asked = f"Question: {' '.join(question.split())}"
    return "\n".join([INSTRUCTION, "", *told, asked, "Candidate answers, the most probable first:", *rows])


def find_fault(reply: str, answers: Sequence[str]) -> str | None:
    """Say why a reply is not used: it must give one of VLE's answers, so that nothing is made up.

    "It is not cyan" does not give "cyan". Yes and no must begin the reply, or follow words such as "the answer is": "I
    have no idea" does not give "no".

    Args:
        reply: whole.
        answers: that were offered.
    """
    if not reply.strip():
        return "the server sent an empty reply"
    told = SHORT_NOT.sub(" not", reply.casefold())
    if not any(_gives(told, _words(answer)) for answer in answers):
        return "the reply gives none of VLE's answers"
    return None


def _gives(reply: str, answer: Sequence[str]) -> bool:
    """Does a reply contain an answer's words in a row, without a negation up to three words before them?"""
    if len(answer) == 1 and answer[0] in YES_NO:
        words = _words(OPENING.sub("", reply))
        return words[:1] == answer and words[1:2] != ["doubt"]
    phrase = r"\b" + r"\W+".join(map(re.escape, answer)) + r"\b"
    before = (CLAUSE_END.split(reply[: found.start()])[-1] for found in re.finditer(phrase, reply) if answer)
    return any(NEGATIONS.isdisjoint(_words(clause)[-3:]) for clause in before)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
