"""The model card (README.md) of an exported captioner, of either family."""

from __future__ import annotations

import json

CARD = """---
base_model: {base}
pipeline_tag: image-text-to-text
tags: [person-retrieval, image-captioning]
---

# HAM captioner: {num_styles} styles on {base}

Describes pedestrians in {num_styles} styles of human annotators. Each style is {style_tokens} tokens added to the vocabulary of
`{base}`; only their embeddings and the projector were trained, everything else is the base model's. The license of the base
model applies. {facts}

Ask for a style through the chat template's variable `style` (0 to {last}); without it the base model answers. The instruction
of training, which captions should be asked with:

> {prompt}

```bash
vllm serve DIR --limit-mm-per-prompt '{{"image": 1}}'
python -m sglang.launch_server --model-path DIR --host 0.0.0.0 --port 8000
```

```json
{{"model": "DIR", "temperature": 0, "chat_template_kwargs": {{"style": {last}}}, "messages": [{{"role": "user", "content": [
  {{"type": "image_url", "image_url": {{"url": "data:image/png;base64,..."}}}},
  {{"type": "text", "text": {prompt_json}}}]}}]}}
```

{notes}Greedy decoding never writes an added token: their output rows are the mean of all others. Sampling can, so mask the ids
{first} to {end} (`suppress_tokens` in transformers, `allowed_token_ids` in vLLM).
"""


def model_card(
    base: str,
    num_styles: int,
    style_tokens: int,
    first_style_token: int,
    prompt: str,
    facts: str,
    notes: str = "",
) -> str:
    """Return the model card.

    facts: sentences about the family's model. notes: paragraphs about its use in engines, each ending with an empty line.
    """
    return CARD.format(
        base=base,
        num_styles=num_styles,
        style_tokens=style_tokens,
        last=max(num_styles - 1, 0),
        first=first_style_token,
        end=first_style_token + num_styles * style_tokens - 1,
        prompt=prompt,
        prompt_json=json.dumps(prompt, ensure_ascii=False),
        facts=facts,
        notes=notes,
    )
