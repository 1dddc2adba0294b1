"""Conversation templates: the prompt, its ids and which of them are learned.

Knows nothing of images or models. A conversation is a list of {"from": "human" | "gpt", "value": text}.

The ids are put together from prompt pieces and answer pieces, so the label mask is right by construction: the reference
tokenizes growing prefixes instead, and when their lengths disagree it silently masks the whole sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ham.llava.tokenizer import (
    IMAGE_TOKEN_INDEX,
    chunk_ids,
    continuation_ids,
    plain_ids,
    prompt_ids,
)
from ham.records import DEFAULT_PROMPT, IMAGE_TEXT
from ham.runtime import UsageError

IGNORE_INDEX = -100
DEFAULT_TEMPLATE = "v1"
SYSTEM = (
    "A chat between a curious {0} and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the {0}'s questions."
)


@dataclass(frozen=True)
class Template:
    """How a conversation is written out.

    human_end, answer_end: what follows a turn of the human and of the assistant; generation stops at answer_end.
    Source: HAM, llava/conversation.py, conv_vicuna_v1, conv_llava_v1, conv_llava_v0.
    """

    name: str
    system: str
    human: str
    assistant: str
    human_end: str
    answer_end: str

    def question(self, text: str) -> str:
        """Write the human's turn and the assistant's name: `USER: ... ASSISTANT:`."""
        return f"{self.human}: {text}{self.human_end}{self.assistant}:"

    def opening(self) -> str:
        """Write what comes before the first turn."""
        return self.system + self.human_end

    def caption_prompt(self, prompt: str) -> str:
        """Write the whole prompt that asks for a caption of one image."""
        return self.opening() + self.question(f"{IMAGE_TEXT}\n{prompt}")


TEMPLATES = {
    template.name: template
    for template in (
        Template("v1", SYSTEM.format("user"), "USER", "ASSISTANT", " ", "</s>"),
        Template("llava_v1", SYSTEM.format("human"), "USER", "ASSISTANT", " ", "</s>"),
        Template("llava_v0", SYSTEM.format("human"), "Human", "Assistant", "###", "###"),
    )
}


class EncodedConversation(NamedTuple):
    """input_ids [T] with -200 for an image, labels [T] with -100 where nothing is learned; both int64."""

    input_ids: torch.Tensor
    labels: torch.Tensor


def get_template(name: str | None) -> Template:
    """Return a template by name; None is the training template, v1. Raises UsageError when there is none of that name."""
    name = name or DEFAULT_TEMPLATE
    if name not in TEMPLATES:
        raise UsageError(f"conversation template '{name}' is not known; use one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def move_image_first(text: str) -> str:
    """Move a turn's `<image>` at its start, on a line of its own; two in one turn become one.

    Source: HAM, llava/train/train.py, preprocess_multimodal.
    """
    if IMAGE_TEXT not in text:
        return text
    return f"{IMAGE_TEXT}\n{text.replace(IMAGE_TEXT, '').strip()}".strip()


def rounds_of(conversation: Sequence[dict[str, str]]) -> list[tuple[str, str]]:
    """Return a conversation as pairs (question, answer); an assistant's turn before the first question is left out.

    Raises UsageError for an unknown role, turns that do not alternate, an end without an answer, or no turn at all.
    """
    turns = []
    for number, turn in enumerate(conversation):
        role, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if role not in ("human", "gpt") or not isinstance(value, str):
            raise UsageError(
                f"turn {number} is {turn!r:.80}; expected {{'from': 'human' or 'gpt', 'value': text}}"
            )
        turns.append((role, value))
    if turns and turns[0][0] == "gpt":
        turns = turns[1:]
    for number, (role, _) in enumerate(turns):
        if role != ("human", "gpt")[number % 2]:
            raise UsageError(f"two turns of '{role}' in a row; human and gpt must alternate")
    if not turns or len(turns) % 2:
        raise UsageError(
            "the conversation has no answer to its last question; add a 'gpt' turn with the caption"
        )
    return [(move_image_first(turns[i][1]), turns[i + 1][1]) for i in range(0, len(turns), 2)]


def check_answer(answer: str, template: Template) -> None:
    """Raise UsageError for an answer that nothing can be learned from: empty, or holding the template's own marks."""
    if not answer.strip():
        raise UsageError("an answer is empty; give it a caption or remove the record")
    for mark in (template.answer_end, f" {template.assistant}: ", IMAGE_TEXT):
        if mark in answer:
            raise UsageError(
                f"the answer {answer!r:.80} holds '{mark}', which the conversation uses as a mark; remove it"
            )


def encode_conversation(
    tokenizer: Any,
    conversation: Sequence[dict[str, str]],
    template: Template | str | None = None,
    max_length: int | None = None,
) -> EncodedConversation:
    """Turn a conversation into ids and labels: only the answers, each with its stop string, are learned.

    max_length: keep this many ids at most (image tokens count as one here; the model cuts the spliced sequence itself).
    Raises UsageError, without the record's number, for what cannot be learned from.
    Source: HAM, llava/train/train.py, preprocess_multimodal and preprocess_v1.
    deviation: the reference prints a warning and masks a sample whose answer is empty, holds " ASSISTANT: " or "</s>", or is
    missing at the end, and it moves an `<image>` inside an answer; here these are errors.
    deviation: for llava_v0 the reference trains on another text than it captions with; here both are one.
    """
    if not isinstance(template, Template):
        template = get_template(template)
    ids: list[int] = []
    labels: list[int] = []

    def add(piece: list[int], learned: bool) -> None:
        ids.extend(piece)
        labels.extend(piece if learned else [IGNORE_INDEX] * len(piece))

    for number, (question, answer) in enumerate(rounds_of(conversation)):
        check_answer(answer, template)
        if number == 0:
            add(prompt_ids(tokenizer, template.opening() + template.question(question)), learned=False)
        else:
            add(following_ids(tokenizer, template, question), learned=False)
        add(answer_ids(tokenizer, template, answer), learned=True)
    return EncodedConversation(torch.tensor(ids[:max_length]), torch.tensor(labels[:max_length]))


def answer_ids(tokenizer: Any, template: Template, answer: str) -> list[int]:
    """Return the ids of an answer after `ASSISTANT:`, with the stop string."""
    if template.answer_end == "</s>":
        return [*continuation_ids(tokenizer, answer), tokenizer.eos_token_id]
    return continuation_ids(tokenizer, answer + template.answer_end)


def following_ids(tokenizer: Any, template: Template, question: str) -> list[int]:
    """Return the ids of a question that follows an answer.

    It is tokenized after the stop string, which is then dropped: whether a word after `</s>` gets a dummy space depends on
    the tokenizer's `legacy` flag.
    """
    end = plain_ids(tokenizer, template.answer_end)
    first, *chunks = template.question(question).split(IMAGE_TEXT)
    ids = plain_ids(tokenizer, template.answer_end + first)
    ids = ids[len(end) :] if ids[: len(end)] == end else plain_ids(tokenizer, first)
    return ids + [one for chunk in chunks for one in (IMAGE_TOKEN_INDEX, *chunk_ids(tokenizer, chunk))]


def prompt_pieces(
    tokenizer: Any, prompt: str | None = None, template: Template | str | None = None
) -> tuple[list[int], list[int]]:
    """Return the ids of a captioning prompt before the image (start token included) and after it.

    prompt: the instruction without `<image>`; None is the reference's own. Raises UsageError when it holds `<image>`.
    Source: HAM, llava/eval/run_llava.py, eval_model2.
    """
    prompt = DEFAULT_PROMPT if prompt is None else prompt
    if IMAGE_TEXT in prompt:
        raise UsageError(
            f"the prompt {prompt!r:.80} holds '{IMAGE_TEXT}'; leave it out, the image is placed before the prompt"
        )
    template = template if isinstance(template, Template) else get_template(template)
    ids = prompt_ids(tokenizer, template.caption_prompt(prompt))
    at = ids.index(IMAGE_TOKEN_INDEX)
    return ids[:at], ids[at + 1 :]
