"""One OpenAI-compatible server: captioning requests, what it holds, and whether that is the model that is expected."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from ham.generation.engines import Caption
from ham.generation.server_http import BadAnswer, JsonClient, Unavailable, WrongServer
from ham.records import SURROGATE

PROBE_TOKENS = 8


@dataclass(frozen=True)
class Expected:
    """The export that the servers must hold, from its config.json.

    model_name: the name at the servers; None takes the only one. image: a PNG of the model's size for the probe.
    """

    folder_name: str
    model_name: str | None
    num_styles: int
    style_tokens: int
    prompt: str
    max_new_tokens: int
    probe_image: bytes


@dataclass(frozen=True)
class Account:
    """What a server says of itself. probe: what it answers to a fixed image, which tells two models apart."""

    model: str
    answers_as: str
    version: str
    details: dict[str, Any]
    probe: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.probe.encode()).hexdigest()[:16]


class ServerClient(JsonClient):
    """Requests to one server."""

    def ask(
        self, expected: Expected, model: str, png: bytes, style: int | None, max_tokens: int
    ) -> dict[str, Any]:
        """Send one captioning request and return the answer's JSON object."""
        image = "data:image/png;base64," + base64.b64encode(png).decode()
        content = [
            {"type": "image_url", "image_url": {"url": image}},
            {"type": "text", "text": expected.prompt},
        ]
        value: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": False,
        }
        if style is not None:
            value["chat_template_kwargs"] = {"style": style}
        answer = self.request("POST", "/v1/chat/completions", value)
        if not isinstance(answer, dict):
            raise BadAnswer(f"an answer of an unknown shape: {str(answer)[:80]!r}")
        return answer

    def caption(self, expected: Expected, account: Account, png: bytes, style: int | None) -> Caption:
        """Caption an image in one style. Raises Unavailable; an answer that cannot be used is a caption with a failure."""
        try:
            answer = self.ask(expected, account.model, png, style, expected.max_new_tokens)
            if answer.get("model", account.answers_as) != account.answers_as:
                raise Unavailable(
                    f"{self.url}: answers as {answer['model']!r:.80}, was {account.answers_as!r:.80}"
                )
            return read_answer(answer, expected.max_new_tokens)
        except BadAnswer as error:
            return Caption("", 0, f"server: {self.scrubbed(str(error))}"[:300])

    def check(self, expected: Expected) -> Account:
        """Query what the server holds. Raises WrongServer naming model or styles, Unavailable when it does not answer."""
        self.drop_idle()
        try:
            return self._check(expected)
        except BadAnswer as error:
            raise WrongServer(f"{self.url}: not a server of an exported captioner: {error}") from None

    def _check(self, expected: Expected) -> Account:
        model, details = self._find_model(expected)
        version = self._version()
        plain = self._probe(expected, model, None)
        if not expected.num_styles:
            return Account(model, str(plain.get("model", "")), version, details, _text(plain))
        last_style = expected.num_styles - 1
        try:
            last = self._probe(expected, model, last_style)
        except BadAnswer as error:
            raise WrongServer(
                f"{self.url}: model {model} has no style {last_style}, {expected.folder_name} has {expected.num_styles} "
                f"styles: {error}"
            ) from None
        self._check_styles(expected, model, plain, last)
        first = last if last_style == 0 else self._probe(expected, model, 0)
        return Account(model, str(first.get("model", "")), version, details, f"{_text(first)}\0{_text(last)}")

    def _find_model(self, expected: Expected) -> tuple[str, dict[str, Any]]:
        listing = self.request("GET", "/v1/models")
        entries = listing.get("data") if isinstance(listing, dict) else None
        models = [one for one in entries or [] if isinstance(one, dict) and isinstance(one.get("id"), str)]
        names = [one["id"] for one in models]
        if not names:
            raise WrongServer(f"{self.url}: /v1/models lists no model; is it an OpenAI-compatible server?")
        wanted = expected.model_name
        if wanted is None:
            same = [name for name in names if name.rstrip("/").rpartition("/")[2] == expected.folder_name]
            wanted = same[0] if same else names[0] if len(names) == 1 else None
        if wanted not in names:
            raise WrongServer(
                f"{self.url}: holds {', '.join(names)[:200]}; expected {wanted or expected.folder_name}. If it is the same "
                "model under another name, give that name with --server-model"
            )
        kept = ("id", "root", "owned_by", "max_model_len", "dtype", "created")
        entry = models[names.index(wanted)]
        return wanted, {key: entry[key] for key in kept if isinstance(entry.get(key), str | int)}

    def _version(self) -> str:
        for path in ("/version", "/get_server_info"):
            try:
                answer = self.request("GET", path)
            except (Unavailable, BadAnswer, WrongServer):
                continue
            if isinstance(answer, dict) and isinstance(answer.get("version"), str):
                return answer["version"][:80]
        return "unknown"

    def _probe(self, expected: Expected, model: str, style: int | None) -> dict[str, Any]:
        return self.ask(expected, model, expected.probe_image, style, PROBE_TOKENS)

    def _check_styles(self, expected: Expected, model: str, plain: Any, last: Any) -> None:
        """Compare prompt lengths: the last style adds its tokens, the one after it does not exist."""
        without = _prompt_tokens(plain)
        with_last = _prompt_tokens(last)
        if without is None or with_last is None:
            return  # no token counts: only the probe's text can tell servers apart
        if with_last - without != expected.style_tokens:
            raise WrongServer(
                f"{self.url}: model {model} has no style {expected.num_styles - 1}: it adds {with_last - without} tokens to "
                f"the prompt, expected {expected.style_tokens}; {expected.folder_name} has {expected.num_styles} styles"
            )
        try:
            beyond = _prompt_tokens(self._probe(expected, model, expected.num_styles))
        except (BadAnswer, Unavailable):
            return
        if beyond == with_last:
            raise WrongServer(
                f"{self.url}: model {model} has more than the {expected.num_styles} styles of {expected.folder_name}"
            )


def read_answer(answer: dict[str, Any], max_new_tokens: int) -> Caption:
    """Read the caption of an answer. Raises BadAnswer for one that is cut, empty or of an unknown shape."""
    choice = _choice(answer)
    text = _text(answer)
    usage = answer.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    tokens = tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and 0 <= tokens < 2**31 else 0
    reason = choice.get("finish_reason")
    if reason == "length" and 0 < tokens < max_new_tokens:
        raise BadAnswer(
            f"cut: the server stopped after {tokens} of {max_new_tokens} tokens; raise its context length"
        )
    if reason not in ("stop", "length", None):
        raise BadAnswer(f"finish_reason {reason!r:.40}; expected stop")
    if not text:
        raise BadAnswer("an empty answer")
    return Caption(text, tokens)


def _choice(answer: dict[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadAnswer(f"an answer of an unknown shape: no choices in {str(answer)[:80]!r}")
    return choices[0]


def _text(answer: dict[str, Any]) -> str:
    message = _choice(answer).get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if content is None:
        raise BadAnswer("an empty answer, without content")
    if not isinstance(content, str):
        raise BadAnswer(f"an answer of an unknown shape: content is {type(content).__name__}")
    if SURROGATE.search(content):
        raise BadAnswer("an answer whose text cannot be written as UTF-8")
    return content.strip()


def _prompt_tokens(answer: dict[str, Any]) -> int | None:
    usage = answer.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count > 0 else None
