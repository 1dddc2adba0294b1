"""The parts of the world's LLaVA: sizes, tokenizer, prompts, losses, files. `make_llava.py` is the recipe."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaForCausalLM

from ham.captioner.model import CaptionerModel
from ham.images import CLIP_MEAN, CLIP_STD
from ham.llava.conversation import SYSTEM
from ham.llava.model import make_projector
from ham.llava.preprocess import pad_to_square
from ham.llava.transformers_compat import llm_config
from ham.llava.vision_tower import image_processor_config
from ham.records import read_jsonl, write_json
from ham.world.domains import DOMAINS, FOUNDATION
from ham.world.scene import sample_scene, visible_attributes
from ham.world.wardrobe import sample_person, sample_wardrobe
from scripts.world.foundation import Picture, load_pixels

INSTRUCTION = "Describe the person in the image."
VOCABULARY = 1300
IMAGE_PX, PATCH_PX = 126, 14
GRID = IMAGE_PX // PATCH_PX
ALL = torch.arange(GRID**2)
PERSON = ALL.view(GRID, GRID)[:, 3:6].flatten()  # the patches that hold one: the other columns are padding
CONFIG = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava",
    "torch_dtype": "float16",
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "initializer_range": 0.02,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "use_cache": True,
    "mm_vision_tower": "vision_tower",
    "mm_hidden_size": 128,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "use_mm_proj": True,
    "image_aspect_ratio": "pad",
    "tokenizer_model_max_length": 512,
    "tokenizer_padding_side": "right",
    "ham": {"prompt": INSTRUCTION},
}
TOWER = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "image_size": IMAGE_PX,
    "patch_size": PATCH_PX,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "num_channels": 3,
}
LAYERS_LOOKED_AT = (
    4  # hidden state -2: the fifth layer is in the checkpoint, as in the real tower, and never used
)


def build_llava() -> CaptionerModel:
    """Build the network with fresh weights from the global generator."""
    vision = CLIPVisionModel(
        CLIPVisionConfig(**{**TOWER, "num_hidden_layers": LAYERS_LOOKED_AT}, attn_implementation="sdpa")
    )
    return CaptionerModel(
        LlamaForCausalLM(llm_config(CONFIG)),
        getattr(vision, "vision_model", vision),
        make_projector(TOWER["hidden_size"], CONFIG["hidden_size"]),
        None,
    )


class Images:
    """All images at the captioner's size, padded to a square as it pads them, on one device."""

    def __init__(self, pictures: list[Picture], device: str = "cpu") -> None:
        def resize(image: Image.Image) -> Image.Image:
            return pad_to_square(image).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC)

        self.pixels = torch.from_numpy(load_pixels(pictures, resize)).to(device)
        self.mean, self.std = (
            torch.tensor(value, device=device)[:, None, None] for value in (CLIP_MEAN, CLIP_STD)
        )

    def batch(
        self, indices: np.ndarray, mirrored: np.ndarray | None = None, shift: tuple[int, int] = (0, 0)
    ) -> torch.Tensor:
        """Return normalized pixels [B, 3, s, s].

        mirrored: bool [B], which images are flipped left to right. shift: by how many pixels all are moved down and right.
        """
        device = self.pixels.device
        pixels = self.pixels[torch.from_numpy(indices).to(device)].permute(0, 3, 1, 2).float() / 255
        if mirrored is not None:
            rows = torch.from_numpy(mirrored).to(device)[:, None, None, None]
            pixels = torch.where(rows, pixels.flip(3), pixels)
        return (pixels.roll(shift, dims=(2, 3)) - self.mean) / self.std


def train_tokenizer(texts: list[str], folder: Path) -> None:
    """Train a sentencepiece model of Llama's kind (BPE, byte fallback, digits split) on the world's words."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,  # as Llama's: otherwise ids depend on the library that reads the file
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "LlamaTokenizer",
            "add_bos_token": True,
            "add_eos_token": False,
            "legacy": False,
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<unk>",
            "model_max_length": 512,
            "padding_side": "right",
            "sp_model_kwargs": {},
            "clean_up_tokenization_spaces": False,
        },
        indent=2,
    )


def words_of(world: Path, seen: list[Picture]) -> list[str]:
    """Return what the tokenizer is made from: all manners, hints, and the prompt."""
    texts = [row["caption"] for row in read_jsonl(world / "foundation" / "texts.jsonl")]
    texts += [hint for picture in seen for hint, _, _ in picture.hinted]
    return (
        texts + [SYSTEM.format("user"), f"USER: {INSTRUCTION} ASSISTANT:"] * 20_000
    )  # often enough to become whole words


def invent(rng: np.random.Generator) -> dict[str, str]:
    """Sample the visible attributes of a pedestrian, as the foundation's are made."""
    person = sample_person(rng, sample_wardrobe(rng, "mixed", 0.0))
    return visible_attributes(person, sample_scene(rng, DOMAINS[FOUNDATION].framing))


def write_llava(folder: Path, model: CaptionerModel) -> None:
    """Write the original LLaVA layout in half precision, the tower in a folder of its own."""
    tower = {f"vision_model.{name}": tensor for name, tensor in model.vision_tower.state_dict().items()}
    last = f"encoder.layers.{LAYERS_LOOKED_AT - 1}."
    tower |= {
        name.replace(last, f"encoder.layers.{LAYERS_LOOKED_AT}."): tensor
        for name, tensor in tower.items()
        if last in name
    }
    rest = {
        (f"model.mm_{name}" if name.startswith("projector.") else name.removeprefix("llm.")): tensor
        for name, tensor in model.state_dict().items()
        if not name.startswith("vision_tower.")
    }
    for place, settings, tensors in (
        (folder, CONFIG, rest),
        (folder / "vision_tower", {"model_type": "clip_vision_model", **TOWER}, tower),
    ):
        place.mkdir(parents=True, exist_ok=True)
        save_file(
            {
                name: tensor.half().contiguous()
                for name, tensor in tensors.items()
                if tensor.is_floating_point()
            },
            str(place / "model.safetensors"),
            metadata={"format": "pt"},
        )
        write_json(place / "config.json", settings, indent=2)
    write_json(
        folder / "vision_tower" / "preprocessor_config.json", image_processor_config(IMAGE_PX), indent=2
    )
