"""Command lines made of dataclasses: defaults < YAML file < command line.

A field's name is its YAML key and, with dashes or underscores, its option; its help is its line in the `Attributes:` section of
the dataclass docstring, and the first line of the docstring is the title of the group.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from ham.records import read_text
from ham.runtime import UsageError

MOST_VALUES = 100_000  # of a YAML file


def parse_options(
    kinds: Sequence[type],
    words: Sequence[str],
    prog: str,
    about: str | None,
    positional: tuple[str, str] | None = None,
    hints: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Parse a command line into the values of all fields of `kinds`, by field name.

    positional: name and help of a leading argument. hints: what to say to options of other programs, by option.
    Raises UsageError naming the option, what was found, and the nearest valid option.
    """
    check_config_files(words)
    parser = build_parser(kinds, prog, about, positional)
    names = [field.name for kind in kinds for field in fields(kind)]
    switches, lists, texts = options_by_type(kinds)
    words = prepare_words(words, switches, lists, texts)
    refuse_unknown(words, names, hints or {})
    try:
        parsed = parser.parse_args(words)
    except (argparse.ArgumentError, argparse.ArgumentTypeError) as error:
        raise UsageError(plain_message(str(error))) from None
    wanted = [*names, *([positional[0]] if positional else [])]
    values = {name: parsed[name] for name in wanted}
    empty = [name for name in texts if values.get(name) == ""]
    if empty:
        raise UsageError(f"--{dashed(empty[0])} '': expected a value, found an empty one")
    return values


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show defaults, keep the line breaks of the description."""


class _Parser(ArgumentParser):
    """A parser whose help shows options with dashes and switches without values."""

    def format_help(self) -> str:
        text = re.sub(r"--[a-z]\w*", lambda option: option[0].replace("_", "-"), super().format_help())
        return text.replace(" {true,false}", "")


def check_config_files(words: Sequence[str]) -> None:
    """Check the files of all `--config` options before they are parsed.

    Raises UsageError for a file that is missing, no UTF-8, no YAML, or that aliases expand without measure.
    """
    for place, word in enumerate(words):
        if word == "--config" and place + 1 < len(words):
            check_yaml(Path(words[place + 1]))
        elif word.startswith("--config="):
            check_yaml(Path(word.partition("=")[2]))


def check_yaml(file: Path) -> None:
    """Check that a YAML file can be read and holds at most MOST_VALUES values, aliases expanded. Raises UsageError."""
    text = read_text(file)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{file}: not valid YAML: {' '.join(str(error).split())[:300]}") from None
    except RecursionError:
        raise UsageError(f"{file}: not valid YAML for this program: nested too deeply") from None
    if root is not None and count_values(root, {}, file) > MOST_VALUES:
        raise UsageError(f"{file}: its aliases expand to more than {MOST_VALUES:,} values")


def count_values(node: yaml.Node, known: dict[int, int], file: Path) -> int:
    """Count a YAML node's values with its aliases expanded, each node computed once."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise UsageError(f"{file}: an alias contains itself")
        return known[id(node)]
    known[id(node)] = -1
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = node.value
    elif isinstance(node, yaml.MappingNode):
        inner = [one for pair in node.value for one in pair]
    known[id(node)] = 1 + sum(count_values(one, known, file) for one in inner)
    return known[id(node)]


def plain_message(message: str) -> str:
    """Reword jsonargparse's message: the option, what was expected and what was found, in one line."""
    message = " ".join(message.split())
    wrong = re.fullmatch(r'(?:Parser|Failed to parse) key "([\w.]+)"[^:]*: (.*)', message)
    if wrong is None:
        return message
    union = re.fullmatch(r"Does not validate .*?Subtypes: \[(.*)\] Errors: .*Given value: ?(.*)", wrong[2])
    single = re.fullmatch(r"Expected an? (<class '\w+'>|\w*\.?Literal.*)\. Got value: ?(.*)", wrong[2])
    known = union or single
    if known is None:
        return f"--{dashed(wrong[1])}: {wrong[2]}"
    return f"--{dashed(wrong[1])}: expected {plain_types(known[1])}, found {known[2] or 'nothing'}"


def plain_types(text: str) -> str:
    """Reword the types in jsonargparse's messages."""
    names = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "text",
        "list": "a list",
    }
    found = [names.get(name, name) for name in re.findall(r"<class '(\w+)'>", text) if name != "NoneType"]
    literals = re.findall(r"Literal\[(.*?)\]", text)
    found += ["one of " + literal.replace("'", "") for literal in literals]
    return " or ".join(found) or text


def build_parser(
    kinds: Sequence[type], prog: str, about: str | None, positional: tuple[str, str] | None = None
) -> ArgumentParser:
    """Return the parser of some dataclasses, one group of options for each."""
    parser = _Parser(
        prog=prog,
        description=about,
        exit_on_error=False,
        allow_abbrev=False,
        print_config="--print-%s",
        formatter_class=_HelpFormatter,
    )
    if positional:
        parser.add_argument(positional[0], type=str, help=positional[1])
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    for kind in kinds:
        parser.add_class_arguments(kind, None)
    return parser


def options_by_type(kinds: Sequence[type]) -> tuple[set[str], set[str], set[str]]:
    """Return the names of the fields that are switches, lists and texts."""
    switches, lists, texts = set(), set(), set()
    for kind in kinds:
        for name, hint in get_type_hints(kind).items():
            shown = str(hint)
            if hint is bool:
                switches.add(name)
            elif "list[" in shown:
                lists.add(name)
            elif hint is str or "str" in shown or "Path" in shown:
                texts.add(name)
    return switches, lists, texts


def prepare_words(words: Sequence[str], switches: set[str], lists: set[str], texts: set[str]) -> list[str]:
    """Bring a command line to jsonargparse's form.

    Dashes in option names become underscores, a switch without value is set, the values behind a list option become one list.
    """
    prepared: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        option = re.fullmatch(r"--([A-Za-z][\w-]*)(?:=(.*))?", word, re.DOTALL)
        if option is None or word.startswith("--print-config"):
            prepared.append(word)
            continue
        name, value = option[1].replace("-", "_"), option[2]
        if name in switches and value is None:
            is_given = waiting and waiting[0].lower() in ("true", "false")
            value = waiting.pop(0).lower() if is_given else "true"
        elif name in lists and value is None:
            values = []
            while waiting and not waiting[0].startswith("--"):
                values.append(waiting.pop(0))
            is_list = len(values) == 1 and values[0].startswith("[")
            value = values[0] if is_list else json.dumps(values)
        elif name in texts and value is None and waiting and not waiting[0].startswith("--"):
            value = waiting.pop(0)
        prepared.append(f"--{name}" if value is None else f"--{name}={value}")
    return prepared


def refuse_unknown(words: Sequence[str], names: Sequence[str], hints: Mapping[str, str]) -> None:
    """Refuse options that do not exist. Raises UsageError with the hint for it or the nearest name."""
    known = {*names, "config", "help", "print_config"}
    for word in words:
        option = re.match(r"--([A-Za-z][\w-]*)", word)
        if option is None or option[1].replace("-", "_") in known:
            continue
        name = option[1].replace("-", "_")
        near = difflib.get_close_matches(name, names, 1)
        hint = hints.get(name) or (f"did you mean --{dashed(near[0])}?" if near else "see --help")
        raise UsageError(f"--{dashed(name)}: no such option; {hint}")


def given_options(words: Sequence[str]) -> set[str]:
    """Return the names of the options on a command line, with underscores."""
    options = (re.match(r"--([A-Za-z][\w-]*)", word) for word in words)
    return {option[1].replace("-", "_") for option in options if option}


def dashed(name: str) -> str:
    return name.replace("_", "-")


def check_range(name: str, value: float | None, low: float, high: float = float("inf")) -> None:
    """Check that a number is in [low, high]; None passes. Raises UsageError naming the option."""
    if value is None or low <= value <= high:
        return
    limit = f"at most {high}" if value > high else f"at least {low}"  # a NaN is in no range
    raise UsageError(f"--{dashed(name)} {value}: expected {limit}")
