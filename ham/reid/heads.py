"""Head tensors of a retrieval method: everything in its state dictionary besides the two CLIP towers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ham.reid.protocol import RetrievalMethod

BASE = "base_model."  # prefix of the towers' tensors


@dataclass(frozen=True)
class HeadsReport:
    """Which head tensors a method took from a source, which stay new, and which of the source's it has no place for."""

    loaded: list[str]
    new: list[str]
    unused: list[str]


def load_heads(method: RetrievalMethod, tensors: Mapping[str, Tensor]) -> HeadsReport:
    """Copy head tensors into a method where name and shape agree. A module is taken whole (what is never used aside) or not."""
    own = {name: value for name, value in method.state_dict().items() if not name.startswith(BASE)}
    fits = {name for name, value in own.items() if name in tensors and tensors[name].shape == value.shape}
    broken = set(
        modules(name for name in own if name not in fits and not name.startswith(method.unused_tensors))
    )
    loaded = [name for name in own if name in fits and name.split(".")[0] not in broken]
    method.load_state_dict({name: tensors[name] for name in loaded}, strict=False)
    new = [name for name in own if name not in loaded]
    return HeadsReport(loaded, new, [name for name in tensors if name not in loaded])


def modules(names: Iterable[str]) -> list[str]:
    """Return the top-level modules of tensor names, each once."""
    return list(dict.fromkeys(name.split(".")[0] for name in names))
