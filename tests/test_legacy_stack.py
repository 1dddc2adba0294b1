"""What transformers 4.31.0, the paper's, refuses, and the table that compares it with the current one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from tiny_llava import CONFIG, original_tensors, write_folder

from ham.captioner.arguments import TrainingArguments
from ham.captioner.checkpoint import load_captioner
from ham.llava import transformers_compat as backbone
from ham.runtime import UsageError

TOP = Path(__file__).resolve().parent.parent
legacy = pytest.mark.skipif(not backbone.IS_LEGACY, reason="needs the paper's stack: scripts/test_legacy.sh")


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("compare", TOP / "transformers-4.31.0" / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------------------- refusals


@legacy
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"rope_theta": 5e5}, "rotary base"),
        ({"attention_bias": True}, "biases"),
        ({"head_dim": 32}, "head width"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rotary scaling 'llama3'"),
    ],
)
def test_newer_language_models_are_refused(more, said) -> None:
    with pytest.raises(UsageError, match=rf"transformers 4\.31\.0 .*{said}.*install transformers 5"):
        backbone.llm_config({**CONFIG, **more})


@legacy
@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
def test_the_choice_of_attention_is_refused(attention, tmp_path) -> None:
    folder = write_folder(tmp_path / "llava", original_tensors(), CONFIG)
    with pytest.raises(UsageError, match=f"no attention '{attention}', only eager"):
        load_captioner(folder, attention=attention)


@legacy
def test_a_tokenizer_without_its_model_is_refused(tmp_path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"needs tokenizer\.model"):
        backbone.load_tokenizer(tmp_path)


@legacy
def test_deepspeed_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"leave --deepspeed out.*DEEPSPEED=none"):
        TrainingArguments(
            output_dir=str(tmp_path), deepspeed=str(TOP / "configs" / "deepspeed" / "zero2.json")
        )


def test_linear_rotary_scaling_is_the_same_on_both() -> None:
    made = [
        backbone.llm_config({**CONFIG, "rope_scaling": {name: "linear", "factor": 2.0}})
        for name in ("type", "rope_type")
    ]
    x = torch.randn(1, 7, CONFIG["hidden_size"], generator=torch.Generator().manual_seed(0))
    logits = []
    for config in (*made, backbone.llm_config(CONFIG)):
        llm = backbone.build_llm(config).eval()
        generator = torch.Generator().manual_seed(1)
        for name, parameter in list(llm.named_parameters()):
            owner, _, last = name.rpartition(".")
            setattr(
                llm.get_submodule(owner),
                last,
                torch.nn.Parameter(torch.randn(parameter.shape, generator=generator)),
            )
        with torch.no_grad():
            logits.append(llm(inputs_embeds=x).logits)
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


# ------------------------------------------------------------------------------------------------------------- the table


def result(compare, loss: float = 2.0, captions: tuple[str, ...] = ("a", "b")) -> dict:
    return {
        "stack": {"transformers": "0"},
        "numbers": {name: [loss, 1.0] for name, kind, _ in compare.ROWS if kind != "equal"},
        "equal": {name: list(captions) for name, kind, _ in compare.ROWS if kind == "equal"},
    }


def test_equal_stacks_pass_and_unequal_ones_do_not(compare) -> None:
    rows, is_good = compare.differences(result(compare), result(compare))
    assert is_good
    assert len(rows) == len(compare.ROWS)
    for other in (result(compare, loss=2.01), result(compare, captions=("a", "c"))):
        rows, is_good = compare.differences(result(compare), other)
        assert not is_good
        assert any("NOT" in cell for row in rows for cell in row)


def test_a_relative_difference_is_relative(compare) -> None:
    assert compare.largest([2.0, -4.0], [2.0, -4.2], "relative") == pytest.approx(0.05)
    assert compare.largest([2.0, -4.0], [2.0, -4.2], "absolute") == pytest.approx(0.2)
    with pytest.raises(ValueError, match="2 numbers against 1"):
        compare.largest([1.0, 2.0], [1.0], "absolute")
    assert compare.largest([1.0], [float("nan")], "absolute") == float("inf")


def test_the_readme_keeps_its_text_around_the_table(compare, tmp_path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{compare.START}\nold\n{compare.END}\nafter\n")
    compare.write_table(readme, "new")
    assert readme.read_text() == f"before\n{compare.START}\n\nnew\n\n{compare.END}\nafter\n"


def test_the_readme_names_the_versions_of_pyproject() -> None:
    folder = TOP / "transformers-4.31.0"
    text = (folder / "README.md").read_text()
    for line in (folder / "pyproject.toml").read_text().splitlines():
        if line.strip().startswith('"') and "==" in line:
            name, version = json.loads(line.split(",")[0]).split("==")
            assert f"{name} {version}" in text
