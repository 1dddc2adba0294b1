"""The `vlm` family: style tuning and loading of any image-text-to-text model of transformers.

Its adapter has the same two files as LLaVA's (ham/captioner/adapter.py): `style_prompts` [S, K, D] and
`projector.<module>.<parameter>`, beside a manifest that names the base model, its width and the first style token.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ham.captioner.adapter import ADAPTER_FORMAT, ADAPTER_STYLES, ADAPTER_WEIGHTS, MANIFEST
from ham.captioner.check import STAT_THREADS, check_used_styles, style_violations
from ham.captioner.checkpoint import DEFAULT_STYLE_TOKENS
from ham.captioner.data import InstructionFile
from ham.captioner.families import Tuning
from ham.captioner.style_bank import initialize
from ham.captioner.vlm_data import VlmCollator, VlmInstructionDataset
from ham.captioner.vlm_model import VlmCaptioner, build_captioner
from ham.records import IMAGE_TEXT, path_below, read_json, write_json
from ham.runtime import UsageError, dist_info, git_revision, log
from ham.tensor_files import index, write_file
from ham.vlm.load import load_model

BANK = "style_bank.prompts"
WRITTEN = "projector."


def load_vlm_captioner(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    base_model: str | Path | None = None,
    trainable_dtype: torch.dtype | None = None,
) -> VlmCaptioner:
    """Load an adapter of this family on its base model, in evaluation mode.

    base_model: path of the base model, if it has moved since training. Raises UsageError for a base of another type or
    width, and for tensors that are missing or left over.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    base_folder = find_base(folder, manifest, base_model)
    base = load_model(base_folder, device, dtype, manifest.get("max_pixels"))
    for name, found in (("width", base.width), ("model_type", base.network.config.model_type)):
        if manifest[name] != found:
            raise UsageError(
                f"{folder}: its styles were tuned on a model with {name} {manifest[name]}, but {base_folder} has {found}; "
                "style prompts belong to one base model"
            )
    captioner = build_captioner(
        base,
        manifest["num_styles"],
        manifest["style_tokens"],
        manifest["prompt"],
        trainable_dtype or dtype,
        ",".join(manifest["projector_modules"]),
    )
    if captioner.model.first_style_token != manifest["first_style_token"]:
        raise UsageError(
            f"{folder}: style tokens begin at id {manifest['first_style_token']}, but the tokenizer of {base_folder} "
            f"puts them at {captioner.model.first_style_token}; it is not the tokenizer of training"
        )
    fill(captioner, read_adapter(folder), folder)
    captioner.model.to(device)
    captioner.manifest = {**captioner.manifest, **manifest, "base_model": str(base_folder)}
    return captioner


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read an adapter's manifest. Raises UsageError for one of another family or with missing fields."""
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("family") != "vlm":
        raise UsageError(f"{folder / MANIFEST}: not an adapter of the family 'vlm'")
    kinds = {
        "num_styles": int,
        "style_tokens": int,
        "first_style_token": int,
        "width": int,
        "model_type": str,
        "prompt": str,
        "projector_modules": list,
    }
    for name, kind in kinds.items():
        value = manifest.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UsageError(f"{folder / MANIFEST}: '{name}' is {value!r:.60}; expected {kind.__name__}")
    return manifest


def find_base(folder: Path, manifest: dict[str, Any], base_model: str | Path | None) -> Path:
    """Return the folder of an adapter's base model: the one given, the recorded one, or the recorded relative path."""
    recorded = [manifest.get("base_model"), folder / str(manifest.get("base_model_relative"))]
    candidates = [base_model] if base_model is not None else recorded
    for candidate in candidates:
        if candidate and (Path(candidate) / "config.json").is_file():
            return Path(candidate)
    raise UsageError(
        f"{folder}: its base model is not at {' nor '.join(str(one) for one in candidates)}; pass --base-model"
    )


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """Read an adapter's tensors under the names of the trained parameters."""
    tensors = dict(index(folder / ADAPTER_WEIGHTS).stream())
    return {BANK if name == ADAPTER_STYLES else name: tensor for name, tensor in tensors.items()}


@torch.no_grad()
def fill(captioner: VlmCaptioner, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Copy an adapter's tensors into the model. Raises UsageError for missing, unknown or misshapen ones."""
    parameters = {
        name: parameter
        for name, parameter in captioner.model.named_parameters()
        if name == BANK or name.startswith(WRITTEN)
    }
    for name in sorted(parameters.keys() ^ tensors.keys()):
        where = "missing" if name in parameters else "unknown"
        raise UsageError(f"{folder / ADAPTER_WEIGHTS}: the tensor {name} is {where}")
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise UsageError(
                f"{folder / ADAPTER_WEIGHTS}: {name} is {list(tensors[name].shape)}, expected {list(parameter.shape)}"
            )
        if not torch.isfinite(tensors[name]).all():
            raise UsageError(f"{folder / ADAPTER_WEIGHTS}: {name} holds values that are not finite")
        parameter.copy_(tensors[name])


def save_vlm_adapter(folder: Path, captioner: VlmCaptioner, tensors: dict[str, torch.Tensor]) -> None:
    """Write adapter.safetensors, then manifest.json (a folder without manifest is not a checkpoint)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {ADAPTER_STYLES if name == BANK else name: tensor for name, tensor in tensors.items()}
    write_file(folder / ADAPTER_WEIGHTS, tensors)
    base = Path(captioner.manifest["base_model"]).resolve()
    write_json(
        folder / MANIFEST,
        {
            **captioner.manifest,
            "format": ADAPTER_FORMAT,
            "version": 1,
            "base_model": str(base),
            "base_model_relative": os.path.relpath(base, folder.resolve()),
            "git_revision": git_revision(),
        },
    )


# ------------------------------------------------------------------------------------------------------------- tuning


def prepare(
    model_args: Any, data_args: Any, args: Any, file: InstructionFile, num_styles: int, prompt: str
) -> Tuning:
    """Load the base model, add the styles, check the data and collect what the trainer needs.

    Raises UsageError for options that this family does not have and for records that cannot be trained on.
    """
    refuse_llava_options(model_args, args)
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    if (Path(model_args.model_name_or_path) / MANIFEST).is_file():
        captioner = load_vlm_captioner(
            model_args.model_name_or_path, "cpu", dtype, trainable_dtype=torch.float32
        )
        if captioner.num_styles < num_styles:
            raise UsageError(
                f"{model_args.model_name_or_path} has {captioner.num_styles} styles, but the data asks for {num_styles}; "
                "start from the base model, or fix the data"
            )
    else:
        check_used_styles(file, data_args.allow_unused_styles)
        base = load_model(model_args.model_name_or_path, "cpu", dtype, model_args.max_pixels)
        tokens = model_args.style_tokens or DEFAULT_STYLE_TOKENS
        captioner = build_captioner(
            base, num_styles, tokens, prompt, torch.float32, model_args.projector_modules
        )
        captioner.manifest["max_pixels"] = model_args.max_pixels
        table = base.network.get_input_embeddings().weight[: captioner.model.first_style_token]
        special = frozenset(base.tokenizer.all_special_ids)
        initialize(captioner.model.style_bank, model_args.style_init, args.seed, table, special)
    if dist_info().is_main:
        check_records(file, Path(data_args.image_folder), captioner, data_args.max_violations)
    choose_what_trains(captioner, args)

    def save(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
        save_vlm_adapter(folder, captioner, tensors)

    dataset = VlmInstructionDataset(file, data_args.image_folder, captioner.writer)
    pad = captioner.tokenizer.pad_token_id
    collator = VlmCollator(captioner.base.end_ids[0] if pad is None else pad)
    return Tuning(captioner, captioner.model, dataset, collator, save, read_adapter)


def refuse_llava_options(model_args: Any, args: Any) -> None:
    """Refuse options that only LLaVA has, by name."""
    given = {
        "--vision_tower": model_args.vision_tower is not None,
        "--version": model_args.version != "v1",
        "--lora_enable": args.lora_enable,
    }
    for name, is_given in given.items():
        if is_given:
            raise UsageError(
                f"{name} belongs to LLaVA; a model of the family 'vlm' brings its own. Leave it out"
            )


def choose_what_trains(captioner: VlmCaptioner, args: Any) -> None:
    """Freeze everything but the style bank and, unless --freeze_mm_mlp_adapter, the projector."""
    model = captioner.model
    model.requires_grad_(False)
    model.style_bank.requires_grad_(True)
    model.projector.requires_grad_(not args.freeze_mm_mlp_adapter)
    if args.gradient_checkpointing:
        model.network.gradient_checkpointing_enable({"use_reentrant": False})
        for name in ("gradient_checkpointing", "activation_checkpointing"):
            if hasattr(args, name):
                setattr(args, name, False)  # Trainer would ask the wrapper for it
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in model.parameters())
    log.info("trained: %s parameters; frozen: %s", f"{trained:,}", f"{total - trained:,}")


def check_records(file: InstructionFile, image_folder: Path, captioner: VlmCaptioner, at_most: int) -> None:
    """Raise UsageError listing the first `at_most` records that cannot be trained on, and how many there are."""
    found = list(record_violations(file, image_folder, captioner.num_styles))
    if found:
        listed = "\n".join(f"  record {number}: {text}" for number, text in found[:at_most])
        more = f"\n  ... and {len(found) - at_most} more" if len(found) > at_most else ""
        raise UsageError(
            f"{file.path}: {len(found)} of {len(file)} records cannot be trained on\n{listed}{more}"
        )
    log.info("%s: %d records in %d styles, no problems found", file.path, len(file), captioner.num_styles)


def record_violations(
    file: InstructionFile, image_folder: Path, num_styles: int
) -> Iterator[tuple[int, str]]:
    """Yield (record number, what is wrong): shape of the record, style, missing image."""
    images: dict[str, list[int]] = {}
    for number in range(len(file)):
        record = file[number]
        text = record_problem(record)
        if text is not None:
            yield number, text
            continue
        yield from ((number, violation) for violation in style_violations(record, num_styles))
        images.setdefault(record["image"], []).append(number)

    def problem(image: str) -> str | None:
        try:
            path = path_below(image_folder, image)
        except UsageError as error:
            return str(error)
        return None if path.is_file() else f"no image {path}; is --image_folder right?"

    with ThreadPoolExecutor(STAT_THREADS) as pool:
        for numbers, text in zip(images.values(), pool.map(problem, images), strict=True):
            if text is not None:
                yield from ((number, text) for number in numbers)


def record_problem(record: Any) -> str | None:
    """Return what is wrong with one record's shape: expected one image, one question with `<image>`, one answer."""
    if not isinstance(record, dict) or not isinstance(record.get("image"), str):
        return "expected an object with one 'image' path"
    turns = record.get("conversations")
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, dict) for turn in turns):
        return "expected two turns: the instruction (from human) and the caption (from gpt)"
    roles = [turn.get("from") for turn in turns]
    texts = [turn.get("value") for turn in turns]
    if roles != ["human", "gpt"] or not all(isinstance(text, str) for text in texts):
        return f"turns are from {roles}; expected human, then gpt, with text"
    if texts[0].count(IMAGE_TEXT) != 1:
        return f"{texts[0].count(IMAGE_TEXT)} times '{IMAGE_TEXT}' in the instruction; expected it once"
    if not texts[0].replace(IMAGE_TEXT, "").strip() or not texts[1].strip():
        return "the instruction or the caption is empty"
    return None
