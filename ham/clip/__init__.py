"""CLIP for person retrieval: two towers with token outputs, every weight layout, IRRA's tokenizer.

Knows nothing of datasets, losses or training. The only package that imports open_clip.
"""

from ham.clip.blocks import QuickGELU, Transformer, take
from ham.clip.positions import resize_positions, resize_text_positions
from ham.clip.tokenizer import (
    EOT_ID,
    MASK_ID,
    PAD_ID,
    SOT_ID,
    VOCAB_SIZE,
    Tokenizer,
    default_tokenizer,
    tokenize,
)
from ham.clip.towers import CLIP, CLIPConfig, CompactEmbedding, eot_positions
from ham.clip.weights import build_clip, load_clip, save_clip

__all__ = [
    "CLIP",
    "EOT_ID",
    "MASK_ID",
    "PAD_ID",
    "SOT_ID",
    "VOCAB_SIZE",
    "CLIPConfig",
    "CompactEmbedding",
    "QuickGELU",
    "Tokenizer",
    "Transformer",
    "build_clip",
    "default_tokenizer",
    "eot_positions",
    "load_clip",
    "resize_positions",
    "resize_text_positions",
    "save_clip",
    "take",
    "tokenize",
]
