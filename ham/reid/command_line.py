"""Parse the command line of train_reid.py: defaults < YAML file < options, into one dataclass per command.

Lists and sizes may be written `[384, 128]`, `384,128`, `(384, 128)`, `384x128` or as words (`384 128`), in a file and on the
command line. A boolean option without a value means true. Options of earlier versions are accepted.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace

from ham.options import check_config_files
from ham.reid.config import moved_options, upgrade_options
from ham.runtime import UsageError

WORDS = "words"  # the words of a command line that belong to no option
SIZE_FORM = "height and width in pixels, for example [384,128] or 384 128"
LIST_FORM = "a list, for example [CUHK-PEDES,RSTPReid] or CUHK-PEDES RSTPReid"


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """A command: its config class, a line of help, and the option that takes the words without a name, if any."""

    config_type: type
    help: str
    positional: str | None = None


def parse(
    words: Sequence[str], commands: Mapping[str, CommandLine], prog: str, description: str = ""
) -> tuple[str, Any]:
    """Parse command, YAML files and options into the command's config.

    Raises UsageError; for an unknown key it lists the valid ones.
    """
    check_config_files(words)
    parser, parsers = build_parser(commands, prog, description)
    name = next(iter(words), "")
    known = parsers.get(name)
    if known is not None:
        line = commands[name]
        words = [
            name,
            *normalize_words(words[1:], option_types(line.config_type), line.positional),
        ]
    try:
        parsed = parser.parse_args(list(words))
    except (argparse.ArgumentError, argparse.ArgumentTypeError) as error:
        raise UsageError(explain(str(error), known, commands)) from None
    line = commands[parsed.command]
    values = parsed[parsed.command]
    if line.positional and values[WORDS]:
        values[line.positional] = values[WORDS]
    return parsed.command, build_config(line.config_type, values)


def build_parser(
    commands: Mapping[str, CommandLine], prog: str, description: str = ""
) -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """Build the parser, and that of each command."""
    settings: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
    parser = ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **settings,
    )
    subcommands = parser.add_subcommands(dest="command")
    parsers = {}
    for name, line in commands.items():
        one = ArgumentParser(description=line.help, print_config="--print-%s", **settings)
        one.add_argument("--config", action="config", help="YAML file with any of the options below")
        one.add_class_arguments(line.config_type, None)
        if line.positional:
            # under a name of its own: without words it would replace what the YAML file says
            one.add_argument(
                WORDS, nargs="*", type=str, default=[], help=f"{line.positional}: sentences, each in quotes"
            )
        subcommands.add_subcommand(name, one, help=line.help)
        parsers[name] = one
    return parser, parsers


def build_config(config_type: type, values: Namespace) -> Any:
    """Build a config from parsed values; groups of options become their dataclasses."""
    hints = get_type_hints(config_type)
    found = {}
    for field in dataclasses.fields(config_type):
        value = values[field.name]
        if isinstance(value, Namespace) and dataclasses.is_dataclass(hints[field.name]):
            value = hints[field.name](**value.as_dict())
        found[field.name] = value
    return config_type(**found)


# ------------------------------------------------------------------------------------------------------------ normal forms


def option_types(config_type: type) -> dict[str, Any]:
    """Return the type of each option by its name, groups as `rde.tau`."""
    found = {}
    for name, kind in get_type_hints(config_type).items():
        if dataclasses.is_dataclass(kind):
            found |= {f"{name}.{inner}": inner_type for inner, inner_type in get_type_hints(kind).items()}
        elif not name.startswith("_"):
            found[name] = kind
    return found


def normalize_words(words: Sequence[str], kinds: Mapping[str, Any], positional: str | None) -> list[str]:
    """Return the words of a command line with names, lists, sizes and flags in one form."""
    found: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option = re.fullmatch(r"--([A-Za-z][\w.-]*)(\+?=.*)?", word, re.DOTALL)
        if option is None or option[1] == "print-config":
            found.append(word)
            continue
        name, given = current_name(option[1]), option[2]
        kind = kinds.get(name)
        following = (
            list(values_after(rest, kind, positional is not None)) if given is None else [given.lstrip("+=")]
        )
        if positional and name == positional:
            del rest[: len(following) if given is None else 0]
            found += normalize(name, kind, following)
        elif given is not None and given.startswith("+"):
            found.append(f"--{name}{given}")
        elif name == "config" and following:
            del rest[: 1 if given is None else 0]
            found.append(f"--config={json.dumps(read_yaml(following[0], kinds))}")
        elif name == "tensorboard":
            del rest[: len(following) if given is None else 0]
            on = not following or yaml.safe_load(following[0])
            found.append(f"--trackers={json.dumps(['tensorboard'] if on else [])}")
        elif is_size(kind) or is_list(kind):
            del rest[: len(following) if given is None else 0]
            found.append(f"--{name}={json.dumps(normalize(name, kind, following))}")
        elif is_flag(kind) and not following:
            found.append(f"--{name}=true")
        else:
            found.append(f"--{name}{given or ''}")
    return found


def values_after(rest: Sequence[str], kind: Any, has_positional: bool) -> Iterator[str]:
    """Iterate over the words that are an option's value: all up to the next option for a list, two numbers for a size."""
    for count, word in enumerate(rest):
        if word.startswith("--"):
            return
        if count and not is_size(kind) and (not is_list(kind) or has_positional):
            return
        if count and is_size(kind) and (count == 2 or not re.fullmatch(r"[\d\s,x()\[\]]+", word)):
            return
        yield word


def current_name(written: str) -> str:
    """Return an option's present name: dashes are underscores, and earlier versions' options have moved."""
    name = written.replace("-", "_")
    return moved_options().get(name, name)


def read_yaml(path: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Read a YAML file of options with lists and sizes in one form. Raises UsageError naming the file."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"--config {path} is no YAML file: {str(error).splitlines()[0]}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"--config {path}: expected lines of the form `option: value`")
    values = upgrade_options({str(name): value for name, value in values.items()})
    for name, value in values.items():
        kind = kinds.get(name)
        if value is not None and (is_size(kind) or is_list(kind)):
            values[name] = normalize(name, kind, value if isinstance(value, list) else [str(value)])
    return values


def normalize(name: str, kind: Any, values: Sequence[Any]) -> Any:
    """Return a list or a size from its words. Raises UsageError showing the form for a size that is none."""
    if len(values) == 1 and isinstance(values[0], str):
        values = split_list(values[0])
        if values is None:
            return None
    if not is_size(kind):
        if not values:
            return []
        return list(values)
    numbers = [str(value).strip() for value in values]
    if len(numbers) != 2 or not all(re.fullmatch(r"[+-]?\d+", number) for number in numbers):
        raise UsageError(f"--{name} is {' '.join(numbers) or 'empty'}; expected {SIZE_FORM}")
    return [int(number) for number in numbers]


def split_list(text: str) -> list[Any] | None:
    """Split `[a, b]`, `(a, b)`, `a,b`, `a b` or `384x128`; None for `null`."""
    text = text.strip()
    if text in ("null", "None", "~"):
        return None
    if text.startswith("["):
        try:
            parsed = yaml.safe_load(text)
        except yaml.YAMLError:
            parsed = None
        if isinstance(parsed, list):
            return parsed
    inner = text.strip("()[] ")
    if re.fullmatch(r"\d+\s*x\s*\d+", inner):
        return re.split(r"\s*x\s*", inner)
    parts = inner.split(",") if "," in inner or text.startswith(("(", "[")) else [inner]
    if len(parts) == 1 and re.fullmatch(r"\d+(\s+\d+)+", inner):
        parts = inner.split()
    return [part.strip().strip("'\"") for part in parts if part.strip()]


def is_list(kind: Any) -> bool:
    """Return whether an option takes a list."""
    return any(get_origin(one) is list for one in members(kind))


def is_size(kind: Any) -> bool:
    """Return whether an option takes a pair of numbers."""
    return any(get_origin(one) is tuple for one in members(kind))


def is_flag(kind: Any) -> bool:
    """Return whether an option is boolean."""
    return bool in members(kind)


def members(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the type alone."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


# ------------------------------------------------------------------------------------------------------------------ errors


def explain(message: str, parser: ArgumentParser | None, commands: Mapping[str, CommandLine]) -> str:
    """Add to jsonargparse's message what the valid commands or keys are, and the nearest one."""
    message = message.strip()
    if parser is None:
        return f"{message}; the commands are {', '.join(commands)}"
    unknown = re.search(r"unrecognized arguments: --([\w.]+)|does not accept option '([\w.]+)'", message)
    if unknown is None:
        return message
    keys = [action.dest for action in parser._actions if action.dest not in ("help", "print_config")]
    near = difflib.get_close_matches(unknown[1] or unknown[2], keys, 1)
    return f"{message}{f'; did you mean {near[0]}?' if near else ''} The valid keys are {', '.join(keys)}"
