"""Write a model with its added tokens as an ordinary folder of the same family, which any engine can serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ham.records import read_json, write_json
from ham.runtime import UsageError
from ham.tensor_files import new_folder
from ham.vlm.vocabulary import ExtendedEmbedding


def text_config_of(config: Any) -> Any:
    """Return the part of a configuration that describes the language model."""
    return config.get_text_config()


@torch.no_grad()
def extend_tables(network: nn.Module, rows: torch.Tensor, first_id: int) -> None:
    """Place the added rows [A, D] into the network's own embedding and untie its output table.

    Every added token's output row is the mean of the old rows: its logit is a mean of theirs and so never the largest,
    which keeps greedy decoding from writing style tokens in any engine. Tied trained rows would win as output rows.
    """
    embedding = network.get_input_embeddings()
    base = embedding.base if isinstance(embedding, ExtendedEmbedding) else embedding
    head = network.get_output_embeddings()
    if head is None or head.bias is not None:
        raise UsageError(f"{type(network).__name__}: expected an output layer without bias to add rows to")
    old_rows = min(first_id, len(base.weight))
    total = max(len(base.weight), first_id + len(rows))
    table = extended(base.weight, total)
    table[first_id : first_id + len(rows)] = rows.to(table)
    output = extended(head.weight, total)
    mean = head.weight[:old_rows].float().mean(0)
    output[first_id : first_id + len(rows)] = mean.to(output)
    output[len(head.weight) : first_id] = mean.to(output)

    fresh = nn.Embedding(total, table.shape[1], base.padding_idx, dtype=table.dtype, device=table.device)
    fresh.weight = nn.Parameter(table, requires_grad=False)
    network.set_input_embeddings(fresh)
    layer = nn.Linear(output.shape[1], total, bias=False, dtype=output.dtype, device=output.device)
    layer.weight = nn.Parameter(output, requires_grad=False)
    network.set_output_embeddings(layer)
    text_config_of(network.config).vocab_size = total
    text_config_of(network.config).tie_word_embeddings = False
    network.config.tie_word_embeddings = False


def extended(table: torch.Tensor, total: int) -> torch.Tensor:
    """Return a copy of a table [V, D] with `total` rows, the new ones zero."""
    longer = table.new_zeros(total, table.shape[1])
    longer[: len(table)] = table
    return longer


def save_folder(
    out: str | Path,
    network: nn.Module,
    processor: Any,
    template: str,
    mark: dict[str, Any],
    card: str,
    check: Callable[[Path], None] | None = None,
    max_shard_bytes: int = 4 << 30,
) -> None:
    """Write network, processor, chat template, the mark `ham` in config.json and a model card; the folder appears whole.

    check: called with the complete folder before it gets its name; where it raises, nothing is left behind.
    """
    with new_folder(out) as beside:
        network.save_pretrained(beside, max_shard_size=max_shard_bytes)
        processor.chat_template = template
        processor.tokenizer.chat_template = template
        processor.save_pretrained(beside)
        config = read_json(beside / "config.json")
        config["ham"] = mark
        write_json(beside / "config.json", config, indent=2)
        clean_tokenizer_config(beside / "tokenizer_config.json")
        (beside / "README.md").write_text(card, encoding="utf-8")
        if check is not None:
            check(beside)


def clean_tokenizer_config(path: Path) -> None:
    """Drop what transformers 5 writes into tokenizer_config.json and other versions and engines cannot read."""
    if not path.is_file():
        return
    settings = read_json(path)
    settings.pop("local_files_only", None)
    settings.pop("is_local", None)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(path, settings, indent=2)
