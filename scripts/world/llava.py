"""The parts of the world's LLaVA: sizes, tokenizer, what it is asked, losses, files. `make_llava.py` tells the story."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaForCausalLM

from ham.captioner.backbone import llm_config, tower_tokens
from ham.captioner.conversation import IGNORE, SYSTEM
from ham.captioner.images import CLIP_MEAN, CLIP_STD, pad_to_square
from ham.captioner.model import CaptionerModel, make_projector
from ham.captioner.tokenizer import IMAGE_TOKEN, plain_ids
from ham.records import read_jsonl, write_json
from ham.runtime import numpy_generator
from ham.world.attributes import FIELDS
from ham.world.draw import sample_scene, visible_attributes
from ham.world.wardrobe import sample_person, sample_wardrobe
from scripts.world.foundation import Picture, load_pixels

INSTRUCTION = "Describe the person in the image."
VOCABULARY = 1300
IMAGE_PX, PATCH_PX = 112, 16
SHIFT_PX = 4
CONFIG = {
    "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "torch_dtype": "float16",
    "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "max_position_embeddings": 512, "initializer_range": 0.02,
    "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
    "use_cache": True,
    "mm_vision_tower": "vision_tower", "mm_hidden_size": 96, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch", "mm_use_im_start_end": False, "mm_use_im_patch_token": False, "use_mm_proj": True,
    "image_aspect_ratio": "pad", "tokenizer_model_max_length": 512, "tokenizer_padding_side": "right",
    "ham": {"prompt": INSTRUCTION},
}
TOWER = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 5, "num_attention_heads": 4, "image_size": IMAGE_PX,
         "patch_size": PATCH_PX, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_channels": 3}
LAYERS_LOOKED_AT = 4  # hidden state -2: the fifth layer is in the checkpoint, as in the real tower, and never used


def build_llava() -> CaptionerModel:
    """Build the network with fresh weights from the global generator."""
    vision = CLIPVisionModel(CLIPVisionConfig(**{**TOWER, "num_hidden_layers": LAYERS_LOOKED_AT}, attn_implementation="sdpa"))
    return CaptionerModel(LlamaForCausalLM(llm_config(CONFIG)), getattr(vision, "vision_model", vision),
                          make_projector(TOWER["hidden_size"], CONFIG["hidden_size"]), None)


class AttributeHeads(nn.Module):
    """Name every field from the image tokens: a learned query per field attends to them. [B, P, W] -> {field: [B, values]}."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(FIELDS), width) * width**-0.5)
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({field: nn.Linear(width, len(values)) for field, values in FIELDS.items()})

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = self.norm(tokens)
        pooled = (tokens @ self.queries.T).softmax(dim=1).transpose(1, 2) @ tokens  # [B, fields, W]
        return {field: head(pooled[:, place]) for place, (field, head) in enumerate(self.heads.items())}


class Images:
    """All pictures at the captioner's size, padded to a square as it pads them."""

    def __init__(self, pictures: list[Picture]) -> None:
        def resize(image: Image.Image) -> Image.Image:
            return pad_to_square(image).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC)

        self.pixels = load_pixels(pictures, resize)
        self.mean, self.std = (torch.tensor(value)[:, None, None] for value in (CLIP_MEAN, CLIP_STD))

    def batch(self, indices: np.ndarray, rng: np.random.Generator | None) -> torch.Tensor:
        """Give normalised pixels [B, 3, s, s], as they are without a generator.

        With one, half of them are mirrored (no annotator tells left from right) and the batch is shifted by a few pixels.
        """
        pixels = torch.from_numpy(self.pixels[indices]).permute(0, 3, 1, 2).float() / 255
        if rng is not None:
            mirrored = torch.from_numpy(rng.random(len(indices)) < 0.5)
            pixels[mirrored] = pixels[mirrored].flip(3)
            pixels = pixels.roll(tuple(rng.integers(-SHIFT_PX, SHIFT_PX + 1, size=2).tolist()), dims=(2, 3))
        return (pixels - self.mean) / self.std


def train_tokenizer(texts: list[str], folder: Path) -> None:
    """Train a sentencepiece model of Llama's kind (BPE, byte fallback, digits split) on the world's words."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=VOCABULARY, model_type="bpe", byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": False,
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>", "model_max_length": 512,
        "padding_side": "right", "sp_model_kwargs": {}, "clean_up_tokenization_spaces": False}, indent=2)


def words_of(world: Path, seen: list[Picture], seed: int) -> list[str]:
    """Collect what the tokenizer is made from: all manners, bare facts, hints, and the prompt."""
    rng = numpy_generator(seed, "tokenizer")
    texts = [row["caption"] for row in read_jsonl(world / "foundation" / "texts.jsonl")]
    texts += [facts_of(picture.attributes, rng) for picture in seen]
    texts += [hint for picture in seen for hint, _, _ in picture.hinted]
    return texts + [SYSTEM.format("user"), f"USER: {INSTRUCTION} ASSISTANT:"] * 500


def attribute_loss(heads: AttributeHeads, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Average cross-entropy over the fields that an image shows; labels [B, fields], -100 where one is not visible."""
    return torch.stack([F.cross_entropy(logits, labels[:, place], ignore_index=-100)
                        for place, logits in enumerate(heads(tokens).values())
                        if (labels[:, place] >= 0).any()]).mean()


@torch.no_grad()
def attribute_accuracy(heads: AttributeHeads, tower: nn.Module, images: Images, labels: torch.Tensor) -> dict[str, float]:
    """Give for each field the share of the images showing it whose value is named: {field: 0 to 1}."""
    named = []
    for start in range(0, len(labels), 100):
        logits = heads(tower_tokens(tower, images.batch(np.arange(start, min(start + 100, len(labels))), None)))
        named.append(torch.stack([values.argmax(dim=1) for values in logits.values()], dim=1))
    right = torch.cat(named) == labels
    shown = labels >= 0
    return {field: float(right[shown[:, place], place].float().mean()) for place, field in enumerate(FIELDS)}


def labels_of(pictures: list[Picture]) -> torch.Tensor:
    rows = [[values.index(picture.attributes[field]) if field in picture.attributes else -100
             for field, values in FIELDS.items()] for picture in pictures]
    return torch.tensor(rows)


def conversation(hint: str, caption: str, hint_first: bool = False) -> list[dict[str, str]]:
    """Ask for `caption`. hint_first: the hint of its manner stands behind the image, where a style prompt will."""
    question = f"<image>{hint}\n{INSTRUCTION}" if hint_first else f"<image>\n{INSTRUCTION} {hint}".strip()
    return [{"from": "human", "value": question}, {"from": "gpt", "value": caption}]


def invent(rng: np.random.Generator) -> dict[str, str]:
    """Make up what one sees of a pedestrian, as the foundation's are made."""
    person = sample_person(rng, sample_wardrobe(rng, "mixed", 0.0))
    return visible_attributes(person, sample_scene(rng, crop_rate=0.08, occlusion_rate=0.08))


def facts_of(attributes: dict[str, str], rng: np.random.Generator) -> str:
    """Write attributes as bare facts in any order, where a caption's image would be: "upper jacket upper_colour red ..."."""
    fields = list(attributes)
    return " ".join(f"{field.replace('_', ' ')} {attributes[field]}" for field in rng.permutation(fields))


def with_facts(tokenizer: Any, sample: dict[str, Any], facts: str) -> dict[str, Any]:
    """Put the facts' ids in the place of the image."""
    ids, targets = sample["input_ids"], sample["labels"]
    at = int((ids == IMAGE_TOKEN).nonzero()[0])
    told = torch.tensor(plain_ids(tokenizer, facts))
    return {**sample, "input_ids": torch.cat([ids[:at], told, ids[at + 1:]]),
            "labels": torch.cat([targets[:at], torch.full_like(told, IGNORE), targets[at + 1:]])}


def language_loss(llm: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Average the next-token loss over the learned ids of [B, T]."""
    hidden = llm.model(inputs_embeds=llm.get_input_embeddings()(batch["input_ids"]), use_cache=False)[0]
    targets = batch["labels"][:, 1:]
    learned = targets != IGNORE
    return F.cross_entropy(llm.lm_head(hidden[:, :-1][learned]), targets[learned])


def caption_loss(model: CaptionerModel, image_tokens: torch.Tensor, told: list[list[dict[str, Any]]]) -> torch.Tensor:
    """Average the loss of several captions of each image: told[b] are the samples about image b, whose prompts begin alike.

    The system prompt and the image are read once; behind them stand the image's samples, each in a segment that sees the
    beginning and itself. Gives what the model's own forward gives for each sample alone, but gradients reach the vision tower.
    """
    first = told[0][0]["input_ids"]
    at = int((first == IMAGE_TOKEN).nonzero()[0])
    begun = at + image_tokens.shape[1]
    ids, labels = (pad_sequence([torch.cat([sample[name][at + 1:] for sample in samples]) for samples in told],
                                batch_first=True, padding_value=padding)
                   for name, padding in (("input_ids", 0), ("labels", IGNORE)))
    lengths = [[len(sample["input_ids"]) - at - 1 for sample in samples] for samples in told]
    segment = pad_sequence([torch.arange(1, len(row) + 1).repeat_interleave(torch.tensor(row)) for row in lengths],
                           batch_first=True, padding_value=-1)
    place = pad_sequence([torch.cat([torch.arange(length) for length in row]) for row in lengths], batch_first=True)
    embed = model.llm.get_input_embeddings()
    start = embed(first[:at]).expand(len(told), -1, -1)
    hidden = model.llm.model(
        inputs_embeds=torch.cat([start, image_tokens, embed(ids)], dim=1), use_cache=False,
        position_ids=torch.cat([torch.arange(begun).expand(len(told), -1), begun + place], dim=1),
        attention_mask=sees(torch.cat([torch.zeros(len(told), begun, dtype=torch.long), segment], dim=1)))[0]
    learned = labels >= 0
    return F.cross_entropy(model.llm.lm_head(hidden[:, begun - 1:-1][learned]), labels[learned])


def sees(segment: torch.Tensor) -> torch.Tensor:
    """Say which place sees which: those before it in its own segment and in segment 0. [B, T] -> bool [B, 1, T, T]."""
    ours = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    return (ours & torch.ones(2 * segment.shape[1:], dtype=torch.bool).tril())[:, None]


def write_llava(folder: Path, model: CaptionerModel) -> None:
    """Write the original LLaVA layout in half precision, the tower in a folder of its own."""
    tower = {f"vision_model.{name}": tensor for name, tensor in model.vision_tower.state_dict().items()}
    last = f"encoder.layers.{LAYERS_LOOKED_AT - 1}."
    tower |= {name.replace(last, f"encoder.layers.{LAYERS_LOOKED_AT}."): tensor
              for name, tensor in tower.items() if last in name}
    rest = {(f"model.mm_{name}" if name.startswith("projector.") else name.removeprefix("llm.")): tensor
            for name, tensor in model.state_dict().items() if not name.startswith("vision_tower.")}
    for place, settings, tensors in ((folder, CONFIG, rest),
                                     (folder / "vision_tower", {"model_type": "clip_vision_model", **TOWER}, tower)):
        place.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.half().contiguous() for name, tensor in tensors.items() if tensor.is_floating_point()},
                  str(place / "model.safetensors"), metadata={"format": "pt"})
        write_json(place / "config.json", settings, indent=2)
