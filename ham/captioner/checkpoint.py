"""Loading a captioner from any layout, saving our adapter, and the command that merges one into the original LLaVA layout.

    python -m ham.captioner.checkpoint merge --model-path ADAPTER --out DIR
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ham.captioner import layouts
from ham.captioner.backbone import build_llm, build_vision_tower, llm_config, load_tokenizer
from ham.captioner.conversation import DEFAULT_TEMPLATE, get_template
from ham.captioner.model import Captioner, CaptionerModel, make_projector
from ham.captioner.prompts import StyleBank, StyleInit, initialise
from ham.captioner.source import ADAPTER_FORMAT, ADAPTER_STYLES, ADAPTER_WEIGHTS, MANIFEST, Source, find_source
from ham.captioner.vision_tower import TowerSource, find_tower, tower_settings, tower_tensors
from ham.records import write_json
from ham.runtime import UsageError, git_revision, log

DEFAULT_STYLE_TOKENS = 10      # M of the paper; the original layout stores [S*M, D] and does not say M


def load_captioner(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32,
                   vision_tower: str | None = None, *, base_model: str | Path | None = None, template: str | None = None,
                   attention: str = "sdpa", image_aspect_ratio: str | None = None, style_tokens: int | None = None,
                   trainable_dtype: torch.dtype | None = None) -> Captioner:
    """Load a captioner from a folder of any layout, frozen and in evaluation mode.

    vision_tower: None = what the checkpoint names (the plain CLIP; an adapter names what it was trained with), "checkpoint" =
    the one inside, or a path. base_model: where an adapter's base lies now. image_aspect_ratio: "pad" overrides a config that
    says otherwise. style_tokens: tokens per style where the checkpoint does not say (10). trainable_dtype: of style prompts
    and projector, where it differs from dtype.
    Weights are streamed to `device` and `dtype` one tensor at a time.
    Raises UsageError when anything is missing, unexpected or of another shape.
    """
    source = find_source(path, base_model)
    check_aspect_ratio(source, image_aspect_ratio)
    config = source.config
    tokenizer = load_tokenizer(source.folder, int(config.get("tokenizer_model_max_length") or 2048))
    fit_vocabulary(source, tokenizer)
    names = source.names()
    has_inside = any(name.startswith(layouts.TOWER) for name in names)
    tower = find_tower(vision_tower or source.manifest.get("vision_tower"), source.folder, config.get("mm_vision_tower"),
                       has_inside)
    log.info("vision tower: %s", f"{tower.name} ({tower.folder})" if tower.folder else "the one inside the checkpoint")

    model, image_size_px, num_patches = build_model(source, tower, names, attention, style_tokens)
    fill(model, source, tower, torch.device(device), dtype, trainable_dtype or dtype)
    model.eval().requires_grad_(False)
    template = get_template(template or source.manifest.get("template")).name
    bank = model.style_bank
    manifest = {**source.manifest, "base_model": str(source.folder), "vision_tower": tower.name, "template": template,
                "image_size_px": image_size_px, "image_aspect_ratio": "pad", "num_styles": bank.num_styles if bank else 0,
                "style_tokens": bank.style_tokens if bank else 0}
    return Captioner(model, tokenizer, image_size_px, num_patches, template, manifest)


def check_aspect_ratio(source: Source, override: str | None) -> None:
    """Raise UsageError unless images are padded, not cropped: a centre crop cuts off heads and feet."""
    found = override or source.manifest.get("image_aspect_ratio") or source.config.get("image_aspect_ratio")
    if found != "pad":
        raise UsageError(f"{source.folder}: image_aspect_ratio in its config is {found!r}; the reference would crop people's "
                         "heads and feet off. This captioner pads images: say --image-aspect-ratio pad to do so here")


def fit_vocabulary(source: Source, tokenizer: Any) -> None:
    """Cut llava-hf's padded vocabulary (32064) to the tokenizer's own; a padding token beyond it becomes the unknown token."""
    rows = source.config["vocab_size"]
    if source.hf_layout:
        if tokenizer.vocab_size > rows:
            raise UsageError(f"{source.folder}: the tokenizer has {tokenizer.vocab_size} ids, the model only {rows} embeddings")
        source.vocab_size = source.config["vocab_size"] = tokenizer.vocab_size
        if tokenizer.pad_token_id >= tokenizer.vocab_size:
            tokenizer.pad_token = tokenizer.unk_token
            log.info("%s: the padding token lies beyond the vocabulary of %d; the unknown token is used", source.folder,
                     tokenizer.vocab_size)
    elif len(tokenizer) > rows:
        raise UsageError(f"{source.folder}: the tokenizer has {len(tokenizer)} ids, the model only {rows} embeddings")


# ----------------------------------------------------------------------------------------------------------- the network


def build_model(source: Source, tower: TowerSource, names: set[str], attention: str, style_tokens: int | None
                ) -> tuple[CaptionerModel, int, int]:
    """Build the network with parameters on the meta device. Returns it, the image size in pixels and the tokens per image."""
    config = source.config
    check_presence(source, names, tower)
    settings = tower_settings(tower, config, lambda: shapes_of(source, layouts.TOWER), plain_folder(source))
    num_layers = layers_looked_at(config.get("mm_vision_select_layer", -2), settings["num_hidden_layers"])
    with torch.device("meta"):
        projector = make_projector(settings["hidden_size"], config["hidden_size"])
        bank = make_bank(source, style_tokens) if layouts.STYLES in names else None
    model = CaptionerModel(build_llm(llm_config(config, attention)), build_vision_tower(settings, num_layers), projector, bank,
                           max_length=config.get("tokenizer_model_max_length"),
                           padding_side=config.get("tokenizer_padding_side", "right"))
    return model, settings["image_size"], (settings["image_size"] // settings["patch_size"]) ** 2


def check_presence(source: Source, names: set[str], tower: TowerSource) -> None:
    """Raise UsageError when a whole part is missing from the weights."""
    for part, start in (("projector", layouts.PROJECTOR), ("language model", "model.layers.")):
        if not any(name.startswith(start) for name in names):
            raise UsageError(f"{source.folder}: there is no {part} among its weights (no '{start}...')")


def shapes_of(source: Source, start: str) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the tensors whose original names begin with `start`."""
    return {name: tuple(tensor.shape) for name, tensor in source.tensors(lambda name: name.startswith(start))}


def plain_folder(source: Source) -> Path | None:
    """Find the folder of the plain tower that the config names, if there is one."""
    try:
        return find_tower(None, source.folder, source.config.get("mm_vision_tower"), has_inside=False).folder
    except UsageError:
        return None


def layers_looked_at(select_layer: int, num_layers: int) -> int:
    """Count the tower's layers up to the hidden state that LLaVA takes; state 0 is the embeddings."""
    count = select_layer if select_layer >= 0 else num_layers + 1 + select_layer
    if not 0 <= count <= num_layers:
        raise UsageError(f"mm_vision_select_layer is {select_layer}, but the vision tower has {num_layers} layers")
    return count


def make_bank(source: Source, style_tokens: int | None) -> StyleBank:
    """Make an empty style bank of the checkpoint's size. Raises UsageError when its rows do not divide into styles."""
    shape = shapes_of(source, layouts.STYLES)[layouts.STYLES]
    if len(shape) == 3:
        return StyleBank(*shape)
    tokens = style_tokens or source.manifest.get("style_tokens") or DEFAULT_STYLE_TOKENS
    if shape[0] % tokens:
        raise UsageError(f"{source.folder}: {shape[0]} rows of style prompts do not divide into styles of {tokens} tokens")
    return StyleBank(shape[0] // tokens, tokens, shape[1])


def fill(model: CaptionerModel, source: Source, tower: TowerSource, device: torch.device, dtype: torch.dtype,
         trainable_dtype: torch.dtype) -> None:
    """Stream the weights into the network. Raises UsageError for tensors that are missing, unknown or of another shape."""
    empty = dict(model.named_parameters())
    from_inside = tower.folder is None
    skipped = set()

    def put(name: str, tensor: torch.Tensor, where: Path) -> None:
        key = layouts.module_name(name)
        parameter = empty.get(key)
        if parameter is None:
            if key.startswith("vision_tower."):      # layers behind the one that LLaVA looks at
                skipped.add(name)
                return
            raise UsageError(f"{where}: '{name}' has no place in this model; its config.json does not fit its weights")
        if key == "style_bank.prompts":
            tensor = tensor.reshape(parameter.shape) if tensor.numel() == parameter.numel() else tensor
        if tensor.shape != parameter.shape:
            raise UsageError(f"{where}: '{name}' is {tuple(tensor.shape)}, but config.json asks for {tuple(parameter.shape)}")
        wanted = trainable_dtype if key.startswith(("projector.", "style_bank.")) else dtype
        set_parameter(model, key, own_copy(tensor, device, wanted))
        del empty[key]

    for name, tensor in source.tensors(
            lambda name: not layouts.is_unused(name) and (from_inside or not name.startswith(layouts.TOWER))):
        put(name, tensor, source.folder)
    if tower.folder is not None:
        for name, tensor in tower_tensors(tower.folder):
            if not layouts.is_unused(name):
                put(name, tensor, tower.folder)
    if "llm.lm_head.weight" in empty and model.llm.config.tie_word_embeddings:
        set_parameter(model, "llm.lm_head.weight", model.llm.get_input_embeddings().weight.detach())
        del empty["llm.lm_head.weight"]
    if empty:
        missing = sorted(empty)
        raise UsageError(f"{source.folder}: {len(missing)} tensors are missing from the weights, e.g. {', '.join(missing[:3])}")
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)


def own_copy(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Move a tensor that may be a view of a mapped file; the result never depends on the file."""
    return tensor.to(device=device, dtype=dtype, copy=True).contiguous()


def set_parameter(model: nn.Module, key: str, tensor: torch.Tensor) -> None:
    """Put a tensor in the place of a parameter on the meta device."""
    owner, _, name = key.rpartition(".")
    setattr(model.get_submodule(owner), name, nn.Parameter(tensor, requires_grad=False))


# ---------------------------------------------------------------------------------------------------- styles and adapter


def add_styles(captioner: Captioner, num_styles: int, style_tokens: int = DEFAULT_STYLE_TOKENS, init: StyleInit = "normal",
               seed: int = 0, dtype: torch.dtype | None = None) -> None:
    """Give a captioner a new style bank, in place of any it has, filled as `ham.captioner.prompts.initialise` says."""
    embeddings = captioner.model.llm.get_input_embeddings().weight
    bank = StyleBank(num_styles, style_tokens, embeddings.shape[1], dtype or captioner.dtype, captioner.device)
    initialise(bank, init, seed, embeddings, frozenset(captioner.tokenizer.all_special_ids))
    captioner.model.style_bank = bank
    captioner.manifest.update(num_styles=num_styles, style_tokens=style_tokens, style_init=init, style_seed=seed)


def adapter_tensors(model: CaptionerModel) -> dict[str, torch.Tensor]:
    """Collect what the adapter holds: `style_prompts` [S, K, D] and the projector's tensors."""
    tensors = {f"projector.{name}": tensor for name, tensor in model.projector.state_dict().items()}
    if model.style_bank is not None:
        tensors[ADAPTER_STYLES] = model.style_bank.prompts.detach()
    return tensors


def save_adapter(folder: str | Path, captioner: Captioner, tensors: dict[str, torch.Tensor] | None = None,
                 **more: Any) -> None:
    """Write the adapter: adapter.safetensors, then manifest.json (a folder without manifest is not a checkpoint).

    tensors: in place of the model's own, with the names of `adapter_tensors`, where those are gathered from several processes
    (ZeRO-3). more: further JSON fields of the manifest.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = adapter_tensors(captioner.model) if tensors is None else tensors
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    beside = folder / f".{ADAPTER_WEIGHTS}.tmp"
    save_file(tensors, str(beside), metadata={"format": "pt"})
    beside.replace(folder / ADAPTER_WEIGHTS)
    base = Path(captioner.manifest["base_model"]).resolve()
    styles = tensors.get(ADAPTER_STYLES)
    shape = (0, 0) if styles is None else tuple(styles.shape[:2])
    write_json(folder / MANIFEST, {
        **captioner.manifest, **more, "format": ADAPTER_FORMAT, "version": 1, "base_model": str(base),
        "base_model_relative": os.path.relpath(base, folder.resolve()), "template": captioner.template or DEFAULT_TEMPLATE,
        "num_styles": shape[0], "style_tokens": shape[1], "git_revision": git_revision(),
    })
