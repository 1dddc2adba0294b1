"""Random image-text-to-text models of two layers, with processors made from scratch: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
]
SPECIAL += ["<|video_pad|>", "<image>"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer of a few hundred pieces."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = "a man in a red jacket and blue jeans is walking. system user assistant Describe the person in the image"
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([text] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def text_settings(tokenizer: Any) -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 400,
        "initializer_range": 0.2,  # so that a prompt can steer what is written
        "max_position_embeddings": 2048,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
    }


def qwen_ids(tokenizer: Any) -> dict[str, int]:
    find = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": find("<|image_pad|>"),
        "video_token_id": find("<|video_pad|>"),
        "vision_start_token_id": find("<|vision_start|>"),
        "vision_end_token_id": find("<|vision_end|>"),
    }


def write_qwen2_5_vl(folder: Path, tied: bool = True) -> Path:
    """Write a random Qwen2.5-VL; tied: input and output share one table, as in the 3B."""
    from transformers import Qwen2VLVideoProcessor

    tokenizer = make_tokenizer()
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "window_size": 112,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config={**text_settings(tokenizer), "rope_parameters": ROPE, "tie_word_embeddings": tied},
        vision_config=vision,
        tie_word_embeddings=tied,
        **qwen_ids(tokenizer),
    )
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    images = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112)
    template = CHATML.replace("IMAGE", QWEN_IMAGE)
    Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=template).save_pretrained(
        folder
    )
    return folder


def write_qwen3_vl(folder: Path) -> Path:
    """Write a random Qwen3-VL (features of several vision layers are added inside the language model)."""
    from transformers import Qwen3VLVideoProcessor

    tokenizer = make_tokenizer()
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 64,
        "patch_size": 14,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
    }
    config = Qwen3VLConfig(
        text_config={**text_settings(tokenizer), "head_dim": 16, "rope_parameters": ROPE},
        vision_config=vision,
        **qwen_ids(tokenizer),
    )
    torch.manual_seed(1)
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    images = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112, patch_size=14)
    template = CHATML.replace("IMAGE", QWEN_IMAGE)
    Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(), chat_template=template).save_pretrained(
        folder
    )
    return folder


def write_llava(folder: Path) -> Path:
    """Write a random llava-hf checkpoint with a fixed image size."""
    tokenizer = make_tokenizer()
    config = LlavaConfig(
        text_config=LlamaConfig(**text_settings(tokenizer)),
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    torch.manual_seed(2)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"height": 56, "width": 56}, crop_size={"height": 56, "width": 56})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHATML.replace("IMAGE", "<image>\n"),
    )
    processor.save_pretrained(folder)
    return folder


# Sizes as published in config.json of Qwen/Qwen2.5-VL-{3B,7B}-Instruct: of the language model and of the vision tower.
PUBLISHED = {
    "Qwen2.5-VL-3B": (
        {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16}
        | {"num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True},
        {"out_hidden_size": 2048, "intermediate_size": 3420},
    ),
    "Qwen2.5-VL-7B": (
        {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
        | {"num_key_value_heads": 4, "vocab_size": 152064, "tie_word_embeddings": False},
        {"out_hidden_size": 3584, "intermediate_size": 3420},
    ),
}


def write_published(folder: Path, name: str) -> Path:
    """Write configuration and processor of a published model, without weights and with a small tokenizer."""
    from transformers import Qwen2VLVideoProcessor

    text, vision = PUBLISHED[name]
    vision = vision | {"depth": 32, "hidden_size": 1280, "num_heads": 16, "patch_size": 14}
    vision |= {"spatial_merge_size": 2, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    tokenizer = make_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": rope, "max_position_embeddings": 128000},
        vision_config=vision,
        tie_word_embeddings=text["tie_word_embeddings"],
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        **qwen_ids(tokenizer),
    )
    config.save_pretrained(folder)
    images = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=28 * 28 * 16384)
    template = CHATML.replace("IMAGE", QWEN_IMAGE)
    Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=template).save_pretrained(
        folder
    )
    return folder


WRITERS = {"qwen2_5_vl": write_qwen2_5_vl, "qwen3_vl": write_qwen3_vl, "llava": write_llava}


def read_processor(folder: Path) -> Any:
    return AutoProcessor.from_pretrained(folder)
