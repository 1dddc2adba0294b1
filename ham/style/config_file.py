"""Read the YAML file and the command line of stage 1 before the parser sees them: encodings, sizes, earlier spellings."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml

from ham.records import read_text
from ham.runtime import UsageError

# Earlier spellings of options, which users' scripts and files may have.
CURRENT_NAMES = {
    "neutral.generalise": "neutral.generalize",
    "features.normalise": "features.normalize",
    "clusters.standardise": "clusters.standardize",
    "neutraliser": "neutral",
    "neutralizer": "neutral",
}


def normalize_words(words: Sequence[str]) -> list[str]:
    """Return a command line with present option names, and each --config file as the JSON of its checked content."""
    found: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option = re.fullmatch(r"--([A-Za-z][\w.-]*)(=.*)?", word, re.DOTALL)
        if option is None:
            found.append(word)
            continue
        name, value = current_name(option[1]), option[2]
        if name == "config" and (value or rest):
            path = value[1:] if value else rest.pop(0)
            found.append(f"--config={json.dumps(read_settings_file(path))}")
        else:
            found.append(f"--{name}{value or ''}")
    return found


def current_name(written: str) -> str:
    """Return the present name of an option: dashes are underscores, and earlier spellings are known."""
    name = written.replace("-", "_") if written != "print-config" else written
    first, dot, last = name.partition(".")
    name = CURRENT_NAMES.get(first, first) + dot + last
    return CURRENT_NAMES.get(name, name)


def read_settings_file(path: str) -> dict[str, Any]:
    """Read a YAML file of options, with earlier spellings under their present names.

    Raises UsageError naming the file when it is missing, not UTF-8, no YAML, no mapping of options, or has aliases: a few lines
    of nested aliases expand to more than any memory holds.
    """
    text = read_text(path)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise UsageError(f"--config {path}: has YAML aliases (*name); write each value out")
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--config {path}: not valid YAML: {reason}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"--config {path}: holds a {type(values).__name__}; expected lines `option: value`")
    return with_current_names(values, f"--config {path}")


def with_current_names(values: dict[Any, Any], where: str, group: str = "") -> dict[str, Any]:
    """Return options under their present names. Raises UsageError when an option is given in two spellings."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        current = current_name(f"{group}{name}").removeprefix(group)
        if current in found:
            raise UsageError(f"{where}: {group}{current} is given twice, in two spellings; keep one")
        is_group = isinstance(value, dict) and not group
        found[current] = with_current_names(value, where, f"{current}.") if is_group else value
    return found
