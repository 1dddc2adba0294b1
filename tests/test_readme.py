"""Every command of the READMEs and of the demo really parses: files exist, options are known, configs are read."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
READMES = [
    TOP / "README.md",
    TOP / ".github" / "CONTRIBUTING.md",
    *sorted(TOP.glob("ham/*/README.md")),
    *sorted(TOP.glob("scripts/*/README.md")),
]
STARTS = ("python ", "bash ", "torchrun ", "source ")
ASSIGNMENT = re.compile(r"[A-Z_]+=")


def commands_of(text: str) -> list[str]:
    """Find commands in indented and fenced blocks and between backticks; continuations and leading assignments are handled."""
    text = text.replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    for block in blocks_of(text, "bash"):
        lines += block.splitlines()
    spans = [span for span in re.findall(r"`([^`\n]+)`", text) if " " in span]
    found = []
    for line in lines + spans:
        line = re.split(r"\s{2,}|\s#\s|\s&&\s", line.removeprefix("$ "))[0]
        words = line.split()
        while words and ASSIGNMENT.match(words[0]):
            words.pop(0)
        if " ".join(words[:1]) + " " in STARTS and "..." not in line and "-c" not in words:
            found.append(line)
    return found


def blocks_of(text: str, language: str) -> list[str]:
    """Return the fenced code blocks of one language."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)


def demo_commands() -> list[str]:
    text = (TOP / "scripts" / "demo.sh").read_text().replace("\\\n", " ")
    text = re.sub(r'\$\{\w+\[@\]\+"[^"]*"\}', "", text)  # the options of --fast
    text = text.replace("$RUN", "runs/demo").replace("$NPROC", "2").replace("$preset", "demo")
    text = re.sub(r"(?m)^(\s+)launch (?=\w)", r"\1run torchrun --standalone ", text)
    commands = [match.strip() for match in re.findall(r"(?m)^\s+(?:[A-Z_]+=\S+ +)*run (\w.*)$", text)]
    expanded = [command.replace("$method", method) for command in commands for method in ("irra", "rde")]
    return list(dict.fromkeys(expanded))


def help_of(*words: str) -> str:
    environment = {**os.environ, "COLUMNS": "300", "PYTHONPATH": str(TOP)}
    done = subprocess.run(
        [sys.executable, *words, "--help"],
        cwd=TOP,
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def known_to_help(*start: str) -> Callable[[list[str]], None]:
    """Check that the help of a command, or of its subcommand, has every option."""

    def check(words: list[str]) -> None:
        subcommand = () if words[0].startswith("-") else (words[0],)
        said = help_of(*start, *subcommand)
        unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in said]
        assert not unknown, f"{unknown} not in the help of {start} {subcommand}"

    return check


def caption(words: list[str]) -> None:
    from ham.generation.config import GROUPS
    from ham.options import parse_options
    from ham.runtime import UsageError

    if words[0] in ("status", "merge"):
        return
    try:
        folder = ("folder", "") if words[0] == "retry" else None
        parse_options(GROUPS, words[1:] if folder else words, "caption.py", None, folder)
    except UsageError as error:
        raise AssertionError(str(error)) from None


def train_reid(words: list[str]) -> None:
    import train_reid as program

    program.parse(words)


def build_styles(words: list[str]) -> None:
    from scripts import build_styles as program

    parser, words = (
        (program.inspect_parser(), words[1:]) if words[0] == "inspect" else (program.build_parser(), words)
    )
    parser.parse_args(words)


def world(words: list[str]) -> None:
    from ham.world.__main__ import parse_arguments

    parse_arguments(words)


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "caption.py": caption,
    "train_reid.py": train_reid,
    "scripts/build_styles.py": build_styles,
    "ham.world": world,
    "ham.datasets": known_to_help("-m", "ham.datasets"),
    "ham.captioner.checkpoint": known_to_help("-m", "ham.captioner.checkpoint"),
    "ham.reid.weights": known_to_help("-m", "ham.reid.weights"),
    "scripts/ablation.py": known_to_help("scripts/ablation.py"),
}


def check_command(command: str) -> None:
    words = shlex.split(command)
    while ASSIGNMENT.match(words[0]):
        words.pop(0)
    program, *words = words
    if program in ("bash", "source"):
        script = TOP / words[0]
        assert script.is_file(), f"no {script}"
        assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
        used = script.read_text()
        assert all(name.rstrip("=") in used for name in re.findall(r"[A-Z_]+=", command)), (
            "a variable that the script ignores"
        )
        return
    if program == "torchrun":
        while words[0].startswith("-"):
            if words[0] == "-m":
                break
            del words[: 1 if words[0] == "--standalone" else 2]
    name, *rest = words[1:] if words[0] == "-m" else words
    if name in CHECKS:
        CHECKS[name](rest)
        return
    file = TOP / (name.replace(".", "/") + ".py" if words[0] == "-m" else name)
    if not file.exists() and words[0] == "-m":
        file = file.with_suffix("") / "__main__.py"
    assert file.is_file(), f"no {file}"
    said = file.read_text()
    rest = [word for word in rest if word != "--help"]
    unknown = [word for word in rest if word.startswith("--") and f'"{word.split("=")[0]}"' not in said]
    assert not unknown, f"{file} does not know {unknown}"


@pytest.mark.parametrize(
    "command", sorted({command for file in READMES for command in commands_of(file.read_text())})
)
def test_readme_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    check_command(command)


@pytest.mark.parametrize("command", demo_commands())
def test_demo_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    check_command(command)


def test_commands_are_found() -> None:
    assert len(demo_commands()) >= 12
    readme = commands_of((TOP / "README.md").read_text())
    assert any(command.startswith("bash scripts/demo.sh") for command in readme)
    assert sum("train_reid.py" in command for command in readme) >= 4


def test_a_wrong_command_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    for command in (
        "bash scripts/none.sh",
        "python caption.py --model-path a --image-root b --out c --no-such 1",
        "python -m ham.world build --out x --preset huge",
        "python scripts/nothing.py",
    ):
        with pytest.raises((AssertionError, SystemExit)):
            check_command(command)


def test_links_lead_somewhere() -> None:
    for file in READMES:
        for target in re.findall(r"\]\(([^)#]+)\)", file.read_text()):
            assert target.startswith("http") or (file.parent / target).exists(), f"{file}: {target}"


# ---------------------------------------------------------------------------------------------------------- the front page


def test_the_readme_is_short() -> None:
    assert len((TOP / "README.md").read_text().splitlines()) <= 130


def test_the_readmes_snippets_run(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the Python blocks as they stand, after the command that draws their images."""
    from ham.world.__main__ import main as build_world

    text = (TOP / "README.md").read_text()
    build = next(command for command in commands_of(text) if command.startswith("python -m ham.world build"))
    assert "--out runs/world" in build
    words = build.replace("runs/world", str(tmp_path / "world")).split()[3:]
    monkeypatch.chdir(TOP)
    monkeypatch.setattr("sys.argv", ["ham.world", *words])
    build_world()
    snippets = blocks_of(text, "python")
    assert len(snippets) == 2
    for snippet in snippets:
        exec(compile(snippet.replace("runs/world", str(tmp_path / "world")), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    styled = re.findall(r"(?m)^(0|1|7) (.+)$", printed)
    assert [style for style, _ in styled] == ["0", "1", "7"] and len({caption for _, caption in styled}) == 3
    assert re.search(r"tensor\(\[\[ ?-?0\.\d+, +-?0\.\d+\]\]\)", printed)
