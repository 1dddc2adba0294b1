"""Prompts and label masks through a model's own processor and chat template.

A prompt asks about one image. `prefix` is a run of added tokens that the template must place right behind the image or at
the start of the text; which of the two is the template's affair, and training, captioning and export all use the template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ham.records import style_token
from ham.runtime import UsageError

IGNORE_INDEX = -100

# Renders the original template with the added tokens in front of the first text of the first user message.
WRAPPER = """{%- set ham = namespace(messages=[], placed=false) -%}
{%- set is_styled = style is defined and style is not none -%}
{%- if is_styled and (style is not integer or style < 0 or style >= @STYLES@) -%}
{{- raise_exception('style ' ~ style ~ ' does not exist; this model has styles 0 to @LAST@') -}}
{%- endif -%}
{%- for message in messages -%}
{%- if is_styled and message['role'] == 'user' and not ham.placed and message['content'] is not string -%}
{%- set parts = namespace(items=[]) -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' and not ham.placed -%}
{%- set run = namespace(text='') -%}
{%- for k in range(@TOKENS@) -%}
{%- set run.text = run.text ~ '<|style_' ~ style ~ '_' ~ k ~ '|>' -%}
{%- endfor -%}
{%- set parts.items = parts.items + [{'type': 'text', 'text': run.text ~ part['text']}] -%}
{%- set ham.placed = true -%}
{%- else -%}
{%- set parts.items = parts.items + [part] -%}
{%- endif -%}
{%- endfor -%}
{%- set ham.messages = ham.messages + [{'role': message['role'], 'content': parts.items}] -%}
{%- else -%}
{%- set ham.messages = ham.messages + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- if is_styled and not ham.placed -%}
{{- raise_exception('a style needs a user message whose content is a list of parts, one of them a text') -}}
{%- endif -%}
{%- set messages = ham.messages -%}
"""


def with_style(template: str, num_styles: int, style_tokens: int) -> str:
    """Return a chat template that takes the variable `style` and places that style's tokens; without it nothing changes.

    A template that handles `style` itself (our own exports) is returned unchanged. Rendering fails for a style that does not
    exist and where there is no place for its tokens.
    """
    if "<|style_" in template:
        return template
    numbers = {"@STYLES@": num_styles, "@LAST@": num_styles - 1, "@TOKENS@": style_tokens}
    wrapper = WRAPPER
    for name, number in numbers.items():
        wrapper = wrapper.replace(name, str(number))
    return wrapper + template


def chat_template_of(processor: Any, folder: Any = "the model") -> str:
    """Return a processor's chat template. Raises UsageError where there is none, or several without a default."""
    template = getattr(processor, "chat_template", None) or getattr(
        processor.tokenizer, "chat_template", None
    )
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise UsageError(
            f"{folder}: its processor has no chat template, so prompts cannot be written; put the model's "
            "chat_template.jinja into the folder"
        )
    return template


def messages_of(instruction: str, caption: str | None = None) -> list[dict[str, Any]]:
    """Build the conversation: one image, the instruction, and the answer where there is one."""
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": instruction}]}
    if caption is None:
        return [question]
    return [question, {"role": "assistant", "content": [{"type": "text", "text": caption}]}]


class PromptWriter:
    """Write prompts and training examples with one processor.

    template: a chat template that takes `style`. end_ids: ids that end an answer (the model's eos tokens).
    """

    def __init__(self, processor: Any, template: str, end_ids: Sequence[int]) -> None:
        self.processor = processor
        self.template = template
        self.end_ids = frozenset(end_ids)

    def text(self, instruction: str, style: int | None, caption: str | None = None) -> str:
        """Render the conversation as text, up to where the answer begins or, with a caption, whole."""
        return self.processor.apply_chat_template(
            messages_of(instruction, caption),
            chat_template=self.template,
            add_generation_prompt=caption is None,
            tokenize=False,
            style=style,
        )

    def check(self, num_styles: int, style_tokens: int) -> None:
        """Raise UsageError where the template drops the style's tokens, repeats them or cannot be rendered."""
        probe = "Describe the person."
        for style in sorted({0, num_styles - 1}):
            expected = "".join(style_token(style, k) for k in range(style_tokens))
            rendered = self.text(probe, style)
            if rendered.count(expected) != 1:
                raise UsageError(
                    f"the chat template places style {style} {rendered.count(expected)} times in the prompt "
                    f"({rendered[:160]!r}); expected once. A template must render the text parts of a user's message"
                )
        if "<|style_" in self.text(probe, None):
            raise UsageError("the chat template writes style tokens although no style was asked for")

    def encode(self, image: Any, instruction: str, style: int | None) -> dict[str, torch.Tensor]:
        """Encode a prompt about one image: the processor's tensors, batch size 1."""
        return dict(self._process(self.text(instruction, style), image))

    def encode_example(
        self, image: Any, instruction: str, style: int | None, caption: str
    ) -> dict[str, torch.Tensor]:
        """Encode prompt and answer: the processor's tensors and `labels` [1, T], -100 outside the answer and its end.

        The mask comes from token ids: the prompt must be a prefix of the whole conversation, and the answer ends with the
        first end token behind it. Raises UsageError where the template does otherwise.
        """
        prompt_ids = self._process(self.text(instruction, style), image)["input_ids"][0]
        inputs = dict(self._process(self.text(instruction, style, caption), image))
        ids = inputs["input_ids"][0]  # [T]
        start = len(prompt_ids)
        if not torch.equal(ids[:start], prompt_ids):
            raise UsageError(
                "the chat template writes an answered conversation that does not begin with its own generation prompt, "
                "so the answer cannot be told from the prompt; use a template whose assistant turn is appended"
            )
        ends = [i for i in range(start, len(ids)) if int(ids[i]) in self.end_ids]
        if not ends:
            raise UsageError(
                f"the chat template ends an answer without any of the model's end tokens {sorted(self.end_ids)}; the "
                "captioner would never learn to stop"
            )
        stop = ends[0] + 1
        length = len(ids)
        inputs = {
            name: value[:, :stop] if value.dim() == 2 and value.shape == (1, length) else value
            for name, value in inputs.items()
        }
        labels = inputs["input_ids"].clone()
        labels[:, :start] = IGNORE_INDEX
        inputs["labels"] = labels
        return inputs

    def _process(self, text: str, image: Any) -> Any:
        return self.processor(
            text=[text], images=[image], return_tensors="pt", add_special_tokens=not self._has_start(text)
        )

    def _has_start(self, text: str) -> bool:
        """Return whether the template wrote the start token itself (then the tokenizer must not add another)."""
        start = getattr(self.processor.tokenizer, "bos_token", None)
        return not start or text.startswith(start)
