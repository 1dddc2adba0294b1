"""The retrieval methods by name: one dict.

To add a method, subclass `RetrievalMethod` (ham/reid/protocol.py) in a file of its own and add an entry here. Its options then
appear in YAML files and on the command line under its `options_key`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ham.clip import CLIP
from ham.reid.irra import IRRA, parse_losses
from ham.reid.protocol import RetrievalMethod, joined, similarity
from ham.reid.rde import RDE
from ham.runtime import UsageError

__all__ = [
    "METHODS",
    "build_method",
    "find_method",
    "joined",
    "method_types",
    "recognize_method",
    "similarity",
]

METHODS: dict[str, type[RetrievalMethod]] = {"rde": RDE, "irra": IRRA}


def find_method(name: str) -> type[RetrievalMethod]:
    """Return the class of a method by name; a loss list such as `sdm` or `sdm+mlm+id` belongs to IRRA.

    Raises UsageError naming the valid methods and losses.
    """
    if name in METHODS:
        return METHODS[name]
    try:
        parse_losses(name)
    except UsageError as error:
        known = ", ".join(METHODS)
        raise UsageError(f"method '{name}' is not known: use {known}, or a loss list; {error}") from None
    return IRRA


def build_method(name: str, clip: CLIP, num_classes: int = 0, **options: Any) -> RetrievalMethod:
    """Build a method over CLIP towers for training, with new heads.

    name: an entry of METHODS, or a loss list for IRRA such as `sdm+mlm+id`. num_classes: persons of the training set, for the
    loss 'id' alone. options: each method's options under its key (`irra=IRRAOptions(...)`); the others' are ignored.
    """
    kind = find_method(name)
    chosen = options.get(kind.options_key)
    return kind.build(name, clip, num_classes, kind.options_type() if chosen is None else chosen)


def recognize_method(tensor_names: Iterable[str]) -> str:
    """Return the method whose heads a checkpoint holds; `irra` where it holds none that evaluation needs."""
    names = list(tensor_names)
    for name, kind in METHODS.items():
        if kind.heads and any(tensor.startswith(kind.heads) for tensor in names):
            return name
    return "irra"


def method_types() -> dict[str, type[RetrievalMethod]]:
    """Return the methods' classes by the key of their options, each once."""
    return {kind.options_key: kind for kind in METHODS.values()}
