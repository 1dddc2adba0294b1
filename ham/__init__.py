"""HAM: captions in the styles of thousands of human annotators, and text-to-image person retrieval trained on them.

Python API (see `help(ham.api)`):

    load_captioner   load a LLaVA with style prompts        caption_images   caption images in chosen styles
    load_retrieval   load a CLIP, IRRA or RDE model; its `encode_images` and `encode_texts` return embeddings

The paper has five stages. Each is a package here and a command at the top of the repository; they communicate only through
files, which are defined in `ham/records.py`:

1. `style`       human captions -> content-neutral captions -> features -> KMeans + UPS clusters -> instructions
2. `captioner`   a frozen LLaVA-1.6 is tuned with one style prompt of K tokens per cluster
3. `generation`  the captioner describes a million pedestrian images, each in several random styles
4. `reid`        CLIP-ViT-B/16 is pretrained on these pairs (SDM) and evaluated by direct transfer
5. `reid`        it is fine-tuned with IRRA or RDE

Backbones, which do not depend on the paper: `clip`, `llava`, `vlm`. `datasets` reads the benchmarks, `world` builds the
synthetic dataset, `report` draws the pages that users look at.

Letters in shape comments:

    B batch    T text tokens    P image patches    K tokens per style prompt    S styles
    D width    Q queries        G gallery          V vocabulary                 N captions
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Retrieval", "caption_images", "load_captioner", "load_retrieval"]


def __getattr__(name: str) -> Any:
    """Import the API at its first use, so that `import ham` stays fast."""
    if name not in __all__:
        raise AttributeError(f"module 'ham' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module("ham.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
