"""HAM: captions in the manner of thousands of human annotators, and person retrieval trained on them.

The paper in five stages, each a folder here; they meet only in files (their contracts stand in `ham/records.py`):

1. `style`       human captions -> neutral text -> style features -> KMeans + UPS clusters -> instructions
2. `captioner`   LLaVA-1.6, frozen, learns one style prompt of K tokens per cluster
3. `generation`  the captioner describes a million pedestrian images, each in several random styles
4. `reid`        CLIP-ViT-B/16 is trained on those pairs (SDM), then judged by direct transfer
5. `reid`        ... and is the start of finetuning with IRRA or RDE

`world` draws the pedestrians and simulates the annotators that stand in for data which cannot be shipped; `report` shows a
run as one page. Nothing is re-exported here: import the file that holds what you need.

Letters in shape comments, everywhere in this package:

    B batch    T text tokens    P image patches    K tokens per style prompt    S styles
    D width    Q queries        G gallery          V vocabulary                 N captions
"""

__version__ = "0.1.0"
