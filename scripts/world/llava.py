"""The parts of the world's LLaVA: sizes, tokenizer, prompts, losses, files. `make_llava.py` is the recipe."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaForCausalLM

from ham.captioner.model import CaptionerModel
from ham.images import CLIP_MEAN, CLIP_STD
from ham.llava.conversation import IGNORE_INDEX, SYSTEM
from ham.llava.model import make_projector
from ham.llava.preprocess import pad_to_square
from ham.llava.tokenizer import IMAGE_TOKEN_INDEX, plain_ids
from ham.llava.transformers_compat import empty_cache, llm_config, read_on, tower_tokens
from ham.llava.vision_tower import image_processor_config
from ham.records import read_jsonl, write_json
from ham.runtime import numpy_generator
from ham.world.attributes import FIELDS
from ham.world.domains import DOMAINS, FOUNDATION
from ham.world.scene import sample_scene, visible_attributes
from ham.world.wardrobe import sample_person, sample_wardrobe
from scripts.world.foundation import Picture, load_pixels

INSTRUCTION = "Describe the person in the image."
VOCABULARY = 1300
IMAGE_PX, PATCH_PX = 112, 16
SHIFT_PX = 4
GRID = IMAGE_PX // PATCH_PX
ALL = torch.arange(GRID**2)
PERSON = ALL.view(GRID, GRID)[:, 2:5].flatten()  # the patches that hold one: the other columns are padding
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


class AttributeHeads(nn.Module):
    """Predict every field from the image tokens: [B, P, W] -> {field: [B, values]}, by a learned query per field."""

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
    """All images at the captioner's size, padded to a square as it pads them."""

    def __init__(self, pictures: list[Picture]) -> None:
        def resize(image: Image.Image) -> Image.Image:
            return pad_to_square(image).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC)

        self.pixels = load_pixels(pictures, resize)
        self.mean, self.std = (torch.tensor(value)[:, None, None] for value in (CLIP_MEAN, CLIP_STD))

    def batch(
        self, indices: np.ndarray, rng: np.random.Generator | None, mirrored: np.ndarray | None = None
    ) -> torch.Tensor:
        """Return normalized pixels [B, 3, s, s], as they are without a generator.

        With one, the batch is shifted by a few pixels. mirrored: bool [B], which images are flipped left to right.
        """
        pixels = torch.from_numpy(self.pixels[indices]).permute(0, 3, 1, 2).float() / 255
        if mirrored is not None:
            flipped = torch.from_numpy(mirrored)
            pixels[flipped] = pixels[flipped].flip(3)
        if rng is not None:
            pixels = pixels.roll(tuple(rng.integers(-SHIFT_PX, SHIFT_PX + 1, size=2).tolist()), dims=(2, 3))
        return (pixels - self.mean) / self.std


def mirror(attributes: dict[str, str]) -> dict[str, str]:
    """Return the attributes of a mirrored image: left and right exchanged."""
    other = {"left": "right", "right": "left"}
    return {field: other[value] if field.endswith("_side") else value for field, value in attributes.items()}


def mirror_labels(labels: torch.Tensor, mirrored: np.ndarray) -> torch.Tensor:
    """Return labels [B, fields] with left and right exchanged in the rows of mirrored images; -100 stays."""
    labels = labels.clone()
    rows = torch.from_numpy(mirrored)[:, None]
    sides = torch.tensor([field.endswith("_side") for field in FIELDS])
    return torch.where(rows & sides & (labels >= 0), 1 - labels, labels)


def person_tokens(tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Run the tower on the patches of PERSON alone, each at its place: [B, 3, s, s] -> [B, len(PERSON), W]."""
    embed, columns = (
        tower.embeddings,
        slice(PATCH_PX * int(PERSON[0]), PATCH_PX * (int(PERSON[0]) + len(PERSON) // GRID)),
    )
    patches = embed.patch_embedding(pixels[..., columns]).flatten(2).transpose(1, 2)
    patches = patches + embed.position_embedding.weight[PERSON + 1]
    first = (embed.class_embedding + embed.position_embedding.weight[0]).expand(len(pixels), 1, -1)
    return tower.encoder(
        inputs_embeds=tower.pre_layrnorm(torch.cat([first, patches], dim=1))
    ).last_hidden_state[:, 1:]


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


def words_of(world: Path, seen: list[Picture], seed: int) -> list[str]:
    """Return what the tokenizer is made from: all manners, bare facts, hints, and the prompt."""
    rng = numpy_generator(seed, "tokenizer")
    texts = [row["caption"] for row in read_jsonl(world / "foundation" / "texts.jsonl")]
    texts += [facts_of(picture.attributes, rng) for picture in seen]
    texts += [hint for picture in seen for hint, _, _ in picture.hinted]
    return (
        texts + [SYSTEM.format("user"), f"USER: {INSTRUCTION} ASSISTANT:"] * 20_000
    )  # often enough to become whole words


def attribute_loss(heads: AttributeHeads, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Average cross-entropy over the fields that an image shows; labels [B, fields], -100 where one is not visible."""
    return torch.stack(
        [
            F.cross_entropy(logits, labels[:, place], ignore_index=-100)
            for place, logits in enumerate(heads(tokens).values())
            if (labels[:, place] >= 0).any()
        ]
    ).mean()


@torch.no_grad()
def attribute_accuracy(
    heads: AttributeHeads, tower: nn.Module, images: Images, labels: torch.Tensor
) -> dict[str, float]:
    """Return for each field the share of the images showing it whose value is named: {field: 0 to 1}."""
    named = []
    for start in range(0, len(labels), 100):
        logits = heads(
            tower_tokens(tower, images.batch(np.arange(start, min(start + 100, len(labels))), None))
        )
        named.append(torch.stack([values.argmax(dim=1) for values in logits.values()], dim=1))
    right = torch.cat(named) == labels
    shown = labels >= 0
    return {field: float(right[shown[:, place], place].float().mean()) for place, field in enumerate(FIELDS)}


def labels_of(pictures: list[Picture]) -> torch.Tensor:
    rows = [
        [
            values.index(picture.attributes[field]) if field in picture.attributes else -100
            for field, values in FIELDS.items()
        ]
        for picture in pictures
    ]
    return torch.tensor(rows)


def conversation(hint: str, caption: str, hint_first: bool = False) -> list[dict[str, str]]:
    """Return the conversation for `caption`. hint_first: its hint follows the image, where a style prompt will be."""
    question = f"<image>{hint}\n{INSTRUCTION}" if hint_first else f"<image>\n{INSTRUCTION} {hint}".strip()
    return [{"from": "human", "value": question}, {"from": "gpt", "value": caption}]


def invent(rng: np.random.Generator) -> dict[str, str]:
    """Sample the visible attributes of a pedestrian, as the foundation's are made."""
    person = sample_person(rng, sample_wardrobe(rng, "mixed", 0.0))
    return visible_attributes(person, sample_scene(rng, DOMAINS[FOUNDATION].framing))


def facts_of(attributes: dict[str, str], rng: np.random.Generator) -> str:
    """Write attributes as bare facts in any order, where a caption's image would be: "upper jacket upper_colour red ..."."""
    fields = list(attributes)
    return " ".join(f"{field.replace('_', ' ')} {attributes[field]}" for field in rng.permutation(fields))


class Prefix(NamedTuple):
    """The common prefix of several texts, read once: embeddings [P, D], their positions [P], and that of what follows."""

    tokens: torch.Tensor
    positions: torch.Tensor
    next: int


def forked_loss(
    llm: nn.Module, prefixes: Sequence[Prefix], told: Sequence[Sequence[dict[str, Any]]]
) -> torch.Tensor:
    """Average the next-token loss over the learned ids of several texts behind each prefix.

    told[b]: samples whose ids and labels, from behind `<image>` on, follow prefix b. Each prefix is read once; then come the
    samples in passes of like length, each with its prefix' keys and values before it. Gives what the language model gives for
    each sample alone.
    """
    tokens, positions = (
        pad_sequence(list(rows), batch_first=True)
        for rows in zip(*((one.tokens, one.positions) for one in prefixes))
    )  # [B, P, D]
    there = torch.arange(tokens.shape[1]) < torch.tensor([[len(one.tokens)] for one in prefixes])  # [B, P]
    read = empty_cache()
    read_on(llm, read, tokens, positions)
    follow = sorted(
        ((number, *_behind_image(sample)) for number, samples in enumerate(told) for sample in samples),
        key=lambda row: len(row[1]),
    )
    losses, learned = [], 0
    for start in range(0, len(follow), len(prefixes)):
        of, ids, targets = zip(*follow[start : start + len(prefixes)])
        ids = pad_sequence(list(ids), batch_first=True)  # [R, T]
        targets = pad_sequence(list(targets), batch_first=True, padding_value=IGNORE_INDEX)[:, 1:]
        of = torch.tensor(of)
        positions = torch.tensor([[prefixes[number].next] for number in of]) + torch.arange(ids.shape[1])
        own = torch.ones(2 * ids.shape[1:], dtype=torch.bool).tril().expand(len(of), -1, -1)
        sees = torch.cat([there[of][:, None].expand(-1, ids.shape[1], -1), own], dim=2)[
            :, None
        ]  # [R, 1, T, P + T]
        fork = empty_cache()
        for number, layer in enumerate(read.layers):
            fork.update(layer.keys[of], layer.values[of], number)
        hidden = read_on(llm, fork, llm.get_input_embeddings()(ids), positions, sees)
        chosen = targets != IGNORE_INDEX
        losses.append(F.cross_entropy(llm.lm_head(hidden[:, :-1][chosen]), targets[chosen], reduction="sum"))
        learned += int(chosen.sum())
    return torch.stack(losses).sum() / learned


def _behind_image(sample: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    after = int((sample["input_ids"] == IMAGE_TOKEN_INDEX).nonzero()[0]) + 1
    return sample["input_ids"][after:], sample["labels"][after:]


def _before_image(told: Sequence[Sequence[dict[str, Any]]]) -> torch.Tensor:
    ids = told[0][0]["input_ids"]
    return ids[: int((ids == IMAGE_TOKEN_INDEX).nonzero()[0])]


def facts_loss(
    llm: nn.Module, tokenizer: Any, facts: Sequence[str], told: Sequence[Sequence[dict[str, Any]]]
) -> torch.Tensor:
    """Average the loss of several captions of bare facts, in the place of an image: facts[b] are those of told[b]."""
    embed, before = llm.get_input_embeddings(), _before_image(told)
    rows = [torch.cat([before, torch.tensor(plain_ids(tokenizer, text))]) for text in facts]
    return forked_loss(llm, [Prefix(embed(row), torch.arange(len(row)), len(row)) for row in rows], told)


def caption_loss(
    model: CaptionerModel,
    image_tokens: torch.Tensor,
    told: Sequence[Sequence[dict[str, Any]]],
    patches: torch.Tensor = ALL,
) -> torch.Tensor:
    """Average the loss of several captions of each image: told[b] are the samples about image b, with a common prefix.

    image_tokens: [B, P, D]; patches [P]: which of the image's they are. Equal to the model's own forward for each
    sample alone, but gradients reach the vision tower.
    """
    before = _before_image(told)
    positions = torch.cat([torch.arange(len(before)), len(before) + patches])
    start = model.embed(before)
    return forked_loss(
        model.llm,
        [Prefix(torch.cat([start, tokens]), positions, len(before) + GRID**2) for tokens in image_tokens],
        told,
    )


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
