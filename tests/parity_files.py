"""The recordings of the reference implementations: packed for the repository, unpacked for the tests.

    python tests/parity_files.py RECORDINGS     # pack a folder of whole recordings into tests/data/parity

Large float32 arrays are rounded (weights and inputs to 20 significant bits, outputs to 16) and stored as byte planes, which
compress; pixels are stored as the bytes that they were computed from; all else is exact. See tests/data/parity/README.md.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

PACKED = Path(__file__).parent / "data" / "parity"
LEAST_ROUNDED = 1024  # numbers; smaller arrays stay exact
WEIGHT_BITS, OUTPUT_BITS = 28, 24  # of 32; sign and exponent take 9
PIXELS = ("train.images", "mixed.images", "pixels_train_")
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])[:, None, None]
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711])[:, None, None]
CAPTION_IDS = ("batch.caption_ids", "batch.mlm_ids")
ROWS_KEPT = 2  # of IRRA's six recorded captions, where all tokens were recorded
WEIGHTS = ("irra_tiny", "rde_tiny", "llava_tiny/model")
ARRAYS = ("irra_tiny", "rde_tiny", "llava_tiny", "pad_pixels")
EXACT = ("losses", "rank", "rde_division")
JSON = (
    "caption_filter",
    "irra_tiny",
    "llava_preprocess",
    "llava_tiny",
    "lr_schedule",
    "pad_pixels",
    "param_groups",
    "rde_tiny",
)
FOLDERS = ("llava_tiny", "llava_tiny/vision_tower", "tokenizer", "tokenizer_v5")
SMALL_FILES = ("*.json", "tokenizer.model")
TOWER = "model.vision_tower.vision_tower."


# ---------------------------------------------------------------------------------------------------------------- packing


def pack(arrays: Mapping[str, np.ndarray], weights: bool) -> dict[str, np.ndarray]:
    """Round the large float32 arrays and join them as byte planes; pixels become bytes; the others stay as they are."""
    packed: dict[str, np.ndarray] = {}
    groups: dict[int, dict[str, np.ndarray]] = {WEIGHT_BITS: {}, OUTPUT_BITS: {}}
    for name, value in arrays.items():
        if name.startswith(PIXELS):
            packed[f"bytes:{name}"] = pixel_bytes(value)
        elif value.dtype == np.float32 and value.size >= LEAST_ROUNDED:
            groups[WEIGHT_BITS if weights or name == "batch.images" else OUTPUT_BITS][name] = value
        else:
            packed[name] = value
    for bits, group in groups.items():
        dropped = 32 - bits
        words = [value.reshape(-1).view(np.uint32).astype(np.uint64) for value in group.values()]
        joined = (np.concatenate([*words, np.empty(0, np.uint64)]) + (1 << (dropped - 1))) >> dropped
        for place in range(0, bits, 8):
            packed[f"plane:{bits}:{place}"] = (joined >> place).astype(np.uint8)
        packed[f"shapes:{bits}"] = np.array(json.dumps({name: value.shape for name, value in group.items()}))
    return packed


def unpack(packed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rebuild the arrays that `pack` joined."""
    arrays = {name: value for name, value in packed.items() if ":" not in name}
    for name, value in packed.items():
        if name.startswith("bytes:"):
            arrays[name.removeprefix("bytes:")] = pixels_of(value)
    for bits in (WEIGHT_BITS, OUTPUT_BITS):
        planes = [
            packed[f"plane:{bits}:{place}"].astype(np.uint64) << np.uint64(place)
            for place in range(0, bits, 8)
        ]
        values = (sum(planes) << np.uint64(32 - bits)).astype(np.uint32).view(np.float32)
        start = 0
        for name, shape in json.loads(str(packed[f"shapes:{bits}"])).items():
            size = int(np.prod(shape))
            arrays[name] = values[start : start + size].reshape(shape)
            start += size
    return arrays


def pixel_bytes(pixels: np.ndarray) -> np.ndarray:
    """Return the bytes that normalized pixels [..., 3, H, W] were computed from."""
    found = np.rint((pixels * DEVIATION + MEAN) * 255).astype(np.uint8)
    assert np.abs(pixels_of(found) - pixels).max() < 1e-6
    return found


def pixels_of(found: np.ndarray) -> np.ndarray:
    """Normalize bytes [..., 3, H, W] with CLIP's mean and deviation."""
    return ((found / 255 - MEAN) / DEVIATION).astype(np.float32)


def pack_all(source: Path) -> None:
    """Pack whole recordings into the repository."""
    for name in (*FOLDERS, "."):
        (PACKED / name).mkdir(parents=True, exist_ok=True)
    for name in JSON:
        content = json.loads((source / f"{name}.json").read_text(encoding="utf-8"))
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"
        (PACKED / f"{name}.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    for name in FOLDERS:
        for pattern in SMALL_FILES:
            for file in (source / name).glob(pattern):
                shutil.copyfile(file, PACKED / name / file.name)
    for name in EXACT:
        np.savez_compressed(PACKED / f"{name}.npz", **np.load(source / f"{name}.npz"))
    for name in ARRAYS:
        arrays = {
            key: value for key, value in np.load(source / f"{name}.npz").items() if "_nopad_" not in key
        }
        if name == "llava_tiny":
            thin(arrays, "train.logits", "train.logit_positions")
        if name == "irra_tiny":
            arrays |= {key: arrays[key][:ROWS_KEPT] for key in ("text_tokens", "cross_former")}
        np.savez_compressed(PACKED / f"{name}.npz", **pack(arrays, weights=False))
    for name in WEIGHTS:
        tensors = load_file(source / f"{name}.safetensors")
        clear_unused_rows(tensors, np.load(source / f"{name.split('/')[0]}.npz"))
        np.savez_compressed(PACKED / f"{name}.weights.npz", **pack(tensors, weights=True))
    np.savez_compressed(
        PACKED / "clip_tiny.npz",
        positional_embedding=load_file(source / "clip_tiny.safetensors")["visual.positional_embedding"],
        resized_positional_embedding=np.load(source / "clip_tiny.npz")["resized_positional_embedding"],
    )


def clear_unused_rows(tensors: dict[str, np.ndarray], arrays: Mapping[str, np.ndarray]) -> None:
    """Set the rows of IRRA's and RDE's token embedding to 0 that no recorded caption uses."""
    name = "base_model.token_embedding.weight"
    if name in tensors:
        used = np.unique(np.concatenate([arrays[key].ravel() for key in arrays if key in CAPTION_IDS]))
        kept = np.zeros_like(tensors[name])
        kept[used] = tensors[name][used]
        tensors[name] = kept


def thin(arrays: dict[str, np.ndarray], name: str, positions: str, every: int = 6) -> None:
    """Keep every sixth of the recorded positions."""
    arrays[name] = arrays[name][:, ::every]
    arrays[positions] = arrays[positions][::every]


# -------------------------------------------------------------------------------------------------------------- unpacking


def unpack_all(folder: Path) -> Path:
    """Write the recordings into `folder` under the names that the tests open."""
    for name in FOLDERS:
        shutil.copytree(
            PACKED / name, folder / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.npz")
        )
    for name in JSON:
        (folder / f"{name}.json").write_bytes(gzip.decompress((PACKED / f"{name}.json.gz").read_bytes()))
    for name in (*EXACT, "clip_tiny"):
        shutil.copyfile(PACKED / f"{name}.npz", folder / f"{name}.npz")
    for name in ARRAYS:
        with np.load(PACKED / f"{name}.npz") as packed:
            np.savez(folder / f"{name}.npz", **unpack(packed))
    for name in WEIGHTS:
        with np.load(PACKED / f"{name}.weights.npz") as packed:
            tensors = unpack(packed)
        save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
    inside = {name.removeprefix(TOWER): value for name, value in tensors.items() if name.startswith(TOWER)}
    save_file(inside, folder / "llava_tiny/vision_tower/model.safetensors", metadata={"format": "pt"})
    return folder


if __name__ == "__main__":
    pack_all(Path(sys.argv[1]))
