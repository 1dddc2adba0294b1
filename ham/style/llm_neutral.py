"""The neutralizer `llm`: an instruction-tuned language model rewrites captions, and its answers are checked.

An answer that is refused is replaced by the lexicon's neutral text, marked as a fallback with the reason. The paper's
wording of the request is not published; this one is ours. Source: HAM, section 3.2 (Qwen2.5-7B).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

import torch

from ham.runtime import UsageError, resolve_device, resolve_dtype
from ham.style.hub import check_model_name, loading_options
from ham.style.lexicon import GENERAL, function_words, kept_words, lexicon
from ham.style.neutral import NeutralText, neutral_text

SYSTEM = "You rewrite sentences. You answer with the rewritten text alone."
REQUEST = """Rewrite the description of a pedestrian below. Replace every word that tells how this one person looks - colors, \
clothes, shoes, hair, age, sex, build, bags and other belongings - with a vague general word such as "person", "garment", \
"colored", "item" or "certain". Change nothing else: keep the sentence structure, word order, punctuation, capitals, spelling \
mistakes and tone exactly as they are.

Description: {caption}"""
PROMPT_VERSION = hashlib.sha256((SYSTEM + REQUEST).encode()).hexdigest()[:8]

IDENTITY_KINDS = (
    "color",
    "upper",
    "lower",
    "garment",
    "shoe",
    "accessory",
    "item",
)  # what an answer may not repeat
ALSO_GENERAL = """top tops bottom bottoms shoe shoes accessory accessories colour coloured clothing clothes footwear outerwear
legwear headgear belonging belongings luggage"""
GENERAL_WORDS = frozenset(word for forms in GENERAL.values() for word in forms.values()) | {
    *ALSO_GENERAL.split()
}
CHATTER = re.compile(
    r"(sure|certainly|of course|here('s| is| are)|okay|ok,|(the )?rewritten|note:|i'm sorry|as an ai)\b", re.I
)
SHORTEST, LONGEST = 0.5, 2.0  # words of the answer per word of the caption
LEAST_KEPT = 0.5  # share of the caption's distinct function words that the answer still has


class LlmNeutralizer:
    """Rewrite batches of captions with a causal language model of Hugging Face's layout, greedily.

    model: local path or hub name. answer: for tests, a function from requests to answers in place of a model.
    Raises UsageError when the model cannot be loaded or its tokenizer has no chat template.
    """

    def __init__(
        self,
        model: str,
        max_new_tokens: int = 160,
        device: str = "auto",
        dtype: str = "auto",
        answer: Callable[[Sequence[str]], list[str]] | None = None,
    ) -> None:
        self.max_new_tokens = max_new_tokens
        self.answer = answer or self._answer_with_model
        if answer is None:
            self._load(model, device, dtype)

    def __call__(self, captions: Sequence[str]) -> list[NeutralText]:
        answers = self.answer([REQUEST.format(caption=caption) for caption in captions])
        return [checked(caption, tidy(answer)) for caption, answer in zip(captions, answers, strict=True)]

    def _load(self, model: str, device: str, dtype: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        place = resolve_device(device)
        number = resolve_dtype(dtype, place)
        check_model_name(model, "neutral.model")
        options = loading_options(model)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left", **options)
            loaded = AutoModelForCausalLM.from_pretrained(model, torch_dtype=number, **options)
            self.model = loaded.to(place).eval()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"neutral.model {model}: transformers cannot load it: {error}; pass a local folder, or "
                "neutral.method lexicon, which needs no model"
            ) from None
        if not self.tokenizer.chat_template:
            raise UsageError(
                f"neutral.model {model}: its tokenizer has no chat template; use an instruction-tuned model"
            )
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @torch.inference_mode()
    def _answer_with_model(self, requests: Sequence[str]) -> list[str]:
        chats = [
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": request}]
            for request in requests
        ]
        texts = [
            self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            for chat in chats
        ]
        tokens = self.tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt").to(
            self.model.device
        )
        ids = self.model.generate(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return self.tokenizer.batch_decode(ids[:, tokens.input_ids.shape[1] :], skip_special_tokens=True)


def checked(caption: str, answer: str) -> NeutralText:
    """Return an answer or, where it is refused, the lexicon's neutral text with the reason."""
    reason = refusal(caption, answer)
    if reason is None:
        return NeutralText(caption, answer)
    return NeutralText(caption, neutral_text(caption), "fallback", reason)


def refusal(caption: str, answer: str) -> str | None:
    """Return why an answer is no neutral text of the caption, None when it is one.

    Reasons: empty, chatter, too short or long, identity words left, another sentence (its function words are gone).
    """
    if not answer:
        return "empty"
    if "\n" in answer or CHATTER.match(answer) or "description:" in answer.lower():
        return "chatter"
    ratio = len(answer.split()) / max(1, len(caption.split()))
    if not SHORTEST <= ratio <= LONGEST:
        return f"length ratio {ratio:.2f}"
    left = identity_words(caption) & identity_words(answer)
    if left:
        return f"left: {', '.join(sorted(left))}"
    frame = words_of(caption) & (function_words() | kept_words())
    kept = len(frame & words_of(answer)) / max(1, len(frame))
    return f"only {100 * kept:.0f} % of the function words kept" if kept < LEAST_KEPT else None


def identity_words(text: str) -> set[str]:
    """Return the lower-case single words of a text that the lists count as color, garment, shoe, accessory or belonging."""
    return {word for word in words_of(text) - GENERAL_WORDS if lexicon().kind_of(word) in IDENTITY_KINDS}


def words_of(text: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[^\W\d_]+", text)}


def tidy(answer: str) -> str:
    """Strip blanks and a pair of quotation marks around a whole answer."""
    answer = answer.strip()
    quoted = re.fullmatch(r"[\"“'](.*)[\"”']", answer, re.DOTALL)
    return quoted[1].strip() if quoted else answer
