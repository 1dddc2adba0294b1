"""The text files of a llava-hf export: tokenizer, chat template, processors, and its notes for the model card.

Written by hand, because `save_pretrained` of transformers 5 writes classes that older engines do not know. Knows no weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ham.images import clip_processor
from ham.llava.conversation import Template, get_template
from ham.records import IMAGE_TEXT

CARD_NOTES = """\
In transformers, render the chat template to text first and then call the processor with `add_special_tokens=False`: the
template writes the start token itself.

Images that are already square ({size_px} x {size_px}) give the same pixels in every engine; others are padded and resized
by the engine, which may differ by a few gray levels.

"""

# Jinja. `style` is the style's number, or not given. The image comes first, then the style's tokens, then the text.
TEMPLATE = """{%- if style is defined and style is not none -%}
{%- if style is not integer or style < 0 or style >= @STYLES@ -%}
{{- raise_exception('style ' ~ style ~ ' does not exist; this model has styles 0 to @LAST@') -}}
{%- endif -%}
{%- endif -%}
{{- bos_token -}}{{- @SYSTEM@ -}}
{%- set place = namespace(styled=false) -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- @HUMAN@ -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] in ('image', 'image_url') -%}
{{- '<image>' -}}
{%- if style is defined and style is not none and not place.styled -%}
{%- for k in range(@TOKENS@) -%}
{{- '<|style_' ~ style ~ '_' ~ k ~ '|>' -}}
{%- endfor -%}
{%- set place.styled = true -%}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{{- part['text'] -}}
{%- endfor -%}
{%- endif -%}
{{- @HUMAN_END@ -}}
{%- elif message['role'] == 'assistant' -%}
{{- @ASSISTANT@ ~ ' ' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{{- part['text'] -}}
{%- endfor -%}
{%- endif -%}
{{- @ANSWER_END@ -}}
{%- else -%}
{{- raise_exception('only the roles user and assistant are known') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- @ASSISTANT@ -}}
{%- endif -%}
"""


def chat_template(name: str, num_styles: int, style_tokens: int) -> str:
    """Return a conversation template as Jinja, with the variable `style`."""
    template: Template = get_template(name)
    values = {
        "@STYLES@": str(num_styles),
        "@LAST@": str(num_styles - 1),
        "@TOKENS@": str(style_tokens),
        "@SYSTEM@": json.dumps(template.opening()),
        "@HUMAN@": json.dumps(f"{template.human}: "),
        "@HUMAN_END@": json.dumps(template.human_end),
        "@ASSISTANT@": json.dumps(f"{template.assistant}:"),
        "@ANSWER_END@": json.dumps(template.answer_end),
    }
    text = TEMPLATE
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text


def tokenizer_json(tokenizer: Any, vocabulary: int, names: Sequence[str]) -> dict[str, Any]:
    """Return tokenizer.json: the base model's tokenizer, with `<image>` and the style tokens added behind its `vocabulary` ids.

    A dummy space comes before every piece of text, also behind an added token, as in LLaVA's own slow tokenizer.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["normalizer"] = None
    if content["pre_tokenizer"] and content["pre_tokenizer"].get("type") == "Metaspace":
        content["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "always",
            "split": False,
        }
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    kept = [one for one in content["added_tokens"] if one["id"] < vocabulary]
    added = [{"id": one["id"], "content": one["content"], **plain} for one in kept]
    for place, name in enumerate([IMAGE_TEXT, *names]):
        added.append({"id": vocabulary + place, "content": name, **plain})
    content["added_tokens"] = added
    return content


def tokenizer_config(tokenizer: Any, template: str) -> dict[str, Any]:
    """Return tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "LlavaProcessor",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": tokenizer.bos_token,
        "eos_token": tokenizer.eos_token,
        "unk_token": tokenizer.unk_token,
        "pad_token": tokenizer.pad_token,
        "image_token": IMAGE_TEXT,
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(min(tokenizer.model_max_length, 10**9)),
        "padding_side": "left",
        "chat_template": template,
    }


def processor_config(patch_size: int) -> dict[str, Any]:
    """Return processor_config.json."""
    return {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE_TEXT,
        "num_additional_image_tokens": 1,
        "patch_size": patch_size,
        "vision_feature_select_strategy": "default",
    }


def image_processor(size_px: int) -> dict[str, Any]:
    """Return preprocessor_config.json: pad to a square with CLIP's mean color, resize, normalize."""
    square = {"height": size_px, "width": size_px}
    return clip_processor(
        image_processor_type="LlavaImageProcessor",
        processor_class="LlavaProcessor",
        crop_size=square,
        do_center_crop=True,
        do_pad=True,
        resample=3,
        size=square,
    )
