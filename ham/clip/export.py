"""Write both CLIP towers for other libraries: Hugging Face CLIP folders, open_clip folders, ONNX files.

Features are the towers' own: the CLS and the end token, projected, not normalized. Other libraries have no place for the heads
of a retrieval method; RDE's score also needs its token selection layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ham.clip.hugging_face import config_for_hugging_face, to_hugging_face
from ham.clip.open_clip_config import config_for_open_clip
from ham.clip.positions import shown
from ham.clip.tokenizer import EOT_ID, SOT_ID, default_tokenizer
from ham.clip.towers import CLIP, CompactEmbedding
from ham.images import CLIP_MEAN, CLIP_STD, clip_processor
from ham.records import atomic_write, write_json
from ham.runtime import UsageError, log
from ham.tensor_files import new_folder, write_file

ONNX_OPSET = 17


def whole_vocabulary(clip: CLIP) -> dict[str, Tensor]:
    """Return the state dictionary with a row for every token id: words without a row of their own get the shared one."""
    tensors = clip.state_dict()
    if isinstance(clip.token_embedding, CompactEmbedding):
        tensors["token_embedding.weight"] = tensors["token_embedding.weight"][clip.token_embedding.table]
        del tensors["token_embedding.token_ids"]
    return tensors


def export_hugging_face(clip: CLIP, folder: Path) -> None:
    """Write a folder for `transformers.CLIPModel`, with CLIP's tokenizer and an image processor.

    Raises UsageError for what that class cannot compute: images that are not square, overlapping patches.
    """
    config = clip.config
    side = config.image_size_px[0]
    require_plain_patches(clip, "Hugging Face's CLIPModel")
    if config.image_size_px[1] != side:
        raise UsageError(
            f"Hugging Face's CLIPModel takes square images only, and this model {shown(config.image_size_px)}; export it with "
            "--layout open_clip or --layout onnx, or accept resized positions and other features with --image-size-px "
            f"{side} {side}"
        )
    heads = clip.visual.transformer.heads, clip.transformer.heads
    write_json(folder / "config.json", config_for_hugging_face(config, *heads, EOT_ID), indent=2)
    size = {"height": side, "width": side}
    processor = clip_processor(
        image_processor_type="CLIPImageProcessor",
        size=size,
        resample=2,  # bilinear
        do_center_crop=False,
    )
    write_json(folder / "preprocessor_config.json", processor, indent=2)
    write_hugging_face_tokenizer(folder, config.context_length)
    write_file(folder / "model.safetensors", to_hugging_face(whole_vocabulary(clip)), {"format": "pt"})


def write_hugging_face_tokenizer(folder: Path, text_length: int) -> None:
    """Write the files of `transformers.CLIPTokenizer` for IRRA's vocabulary; padding is the end token, without effect."""
    tokenizer = default_tokenizer()
    write_json(folder / "vocab.json", tokenizer.encoder, indent=None)
    merges = "\n".join(
        " ".join(pair) for pair in sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    )
    with atomic_write(folder / "merges.txt") as file:
        file.write(f"#version: 0.2\n{merges}\n")
    start = tokenizer.decoder[SOT_ID]
    end = tokenizer.decoder[EOT_ID]
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": text_length,
        "bos_token": start,
        "eos_token": end,
        "unk_token": end,
        "pad_token": end,
        "do_lower_case": True,
    }
    write_json(folder / "tokenizer_config.json", settings, indent=2)


def export_open_clip(clip: CLIP, folder: Path) -> None:
    """Write a folder for `open_clip.create_model_and_transforms("local-dir:FOLDER")`; images may have any shape.

    Its tokenizer is open_clip's own: all captions give the same ids but those with the word "jekyll". Raises UsageError for
    overlapping patches.
    """
    require_plain_patches(clip, "open_clip")
    heads = clip.visual.transformer.heads, clip.transformer.heads
    config = config_for_open_clip(clip.config, *heads, CLIP_MEAN, CLIP_STD)
    write_json(folder / "open_clip_config.json", config, indent=2)
    write_file(folder / "open_clip_model.safetensors", whole_vocabulary(clip), {"format": "pt"})


def require_plain_patches(clip: CLIP, library: str) -> None:
    """Raise UsageError when patches overlap."""
    config = clip.config
    if config.stride_px != config.patch_px:
        raise UsageError(
            f"{library} has no overlapping patches, and this model has patches of {config.patch_px} px every "
            f"{config.stride_px} px; export it with --layout onnx"
        )


class _Tower(nn.Module):
    """One encoder of a CLIP as a module, for the ONNX exporter."""

    def __init__(self, clip: CLIP, encode: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.clip, self.encode = clip, encode

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode a batch."""
        return self.encode(inputs)


def export_onnx(clip: CLIP, folder: Path) -> None:
    """Write `image.onnx` (pixels [B, 3, H, W] to features [B, D]), `text.onnx` (ids [B, T] to [B, D]) and `clip.json`.

    Any batch size. clip.json: image size, mean and deviation of the pixels, number of tokens. Needs the extra `onnx`.
    """
    try:
        import onnx  # noqa: F401  torch's exporter imports it late
    except ImportError:
        raise UsageError("--layout onnx needs the package onnx: pip install 'ham[onnx]'") from None
    config = clip.config
    length = config.context_length
    clip = clip.eval()
    inputs = {
        "image": (clip.encode_image, torch.zeros(2, 3, *config.image_size_px)),
        "text": (clip.encode_text, torch.tensor([[SOT_ID, EOT_ID, *[0] * (length - 2)]] * 2)),
    }
    for name, (encode, example) in inputs.items():
        with atomic_write(folder / f"{name}.onnx", "wb") as file, warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of the tracer about checks of sizes, and that this exporter is the older one
            torch.onnx.export(
                _Tower(clip, encode),
                (example,),
                file,
                dynamo=False,
                opset_version=ONNX_OPSET,
                input_names=["pixels" if name == "image" else "ids"],
                output_names=["features"],
                dynamic_axes={"pixels" if name == "image" else "ids": {0: "batch"}, "features": {0: "batch"}},
            )
    facts = {
        "image_size_px": list(config.image_size_px),
        "pixel_mean": list(CLIP_MEAN),
        "pixel_std": list(CLIP_STD),
        "text_length": length,
        "embed_dim": config.embed_dim,
    }
    write_json(folder / "clip.json", facts, indent=2)


EXPORTS: Mapping[str, Callable[[CLIP, Path], Any]] = {
    "hf": export_hugging_face,
    "open_clip": export_open_clip,
    "onnx": export_onnx,
}


def export_towers(clip: CLIP, layout: str, folder: str | Path) -> None:
    """Write both towers in one of the layouts of `EXPORTS`. Raises UsageError when the folder holds files already."""
    with new_folder(folder) as beside:
        EXPORTS[layout](clip, beside)
    log.info(
        "%s: both towers written (layout %s, images of %s)", folder, layout, shown(clip.config.image_size_px)
    )
