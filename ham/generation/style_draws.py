"""Which style captions which image: a sequence of draws per image that no batch, rank or restart can change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ham.records import NO_STYLE, CaptionRow, check_int, check_kind
from ham.runtime import UsageError, numpy_generator


class Draw(NamedTuple):
    """One attempt to caption an image in one style."""

    style_id: int
    attempt: int


@dataclass(frozen=True)
class StylePlan:
    """How an image's captions are drawn.

    pool: the styles to choose from. shuffled: in an order of the image's own (seed, image path) or as listed.
    captions_per_image: how many captions an image gets. max_redraws: how often a rejected one is drawn again.
    repeats: whether a style is drawn again once all are used; greedy decoding would give the same caption.
    """

    pool: tuple[int, ...]
    shuffled: bool
    captions_per_image: int
    max_redraws: int = 4
    seed: int = 0
    repeats: bool = True

    def sequence(self, image: str) -> list[int]:
        """Return the image's styles in the order drawn, as many as it may ever need: each once, then again from the start."""
        length = self.captions_per_image * (self.max_redraws + 1)
        count = len(self.pool)
        if not self.repeats:
            length = min(length, count)
        if not self.shuffled:
            return [self.pool[index % count] for index in range(length)]
        order = numpy_generator(self.seed, "styles", image).permutation(count)[:length].tolist()
        return [self.pool[order[index % count]] for index in range(length)]

    def replay(self, image: str, rows: Iterable[CaptionRow]) -> tuple[list[CaptionRow], list[Draw]]:
        """Follow an image's draws through the rows it has: the rows in the order drawn, and the draws to make next.

        Round 0 draws one style per caption; each later round draws, for every caption rejected in the round before, the next
        style of the sequence, as far as it goes. Nothing to draw means that the image is done. Rows may come in any order;
        rows of no draw come last. A failed row without style is an image that cannot be read.
        """
        made = {Draw(-2 if row.style_id is None else row.style_id, row.attempt): row for row in rows}
        if any(row.status == "failed" and row.style_id is None for row in made.values()):
            return list(made.values()), []
        sequence = self.sequence(image)
        ordered: list[Draw] = []
        position, wanted = 0, self.captions_per_image
        missing: list[Draw] = []
        for redraw in range(self.max_redraws + 1):
            styles = sequence[position : position + wanted]
            draws = [Draw(style_id, self._attempt(redraw, index)) for index, style_id in enumerate(styles)]
            ordered += [draw for draw in draws if draw in made]
            missing = [draw for draw in draws if draw not in made]
            position += wanted
            wanted = sum(draw in made and made[draw].status == "rejected" for draw in draws)
            if missing or not wanted:
                break
        strays = [draw for draw in made if draw not in set(ordered)]
        return [made[draw] for draw in ordered + strays], missing

    def _attempt(self, redraw: int, index: int) -> int:
        # More captions than styles makes a style come twice in one round: number those apart, so that no row repeats.
        return redraw + (self.max_redraws + 1) * (index // len(self.pool))


def parse_styles(
    text: str, num_styles: int, captions_per_image: int | None = None
) -> tuple[tuple[int, ...], bool, int]:
    """Read `--styles`: random | all | none | 0,5,17. Returns the pool, whether it is shuffled, and the captions per image.

    none: no style tokens, recorded as style -1. captions_per_image: by default 2 for random, else one per listed style.
    Raises UsageError for ids out of range or listed twice.
    """
    if num_styles == 0 and text != "none":
        raise UsageError(
            f"--styles {text}: this checkpoint has no style prompts, it is a plain LLaVA; use --styles none"
        )
    if text in ("random", "all"):
        pool: Sequence[int] = range(num_styles)
    elif text == "none":
        pool = [NO_STYLE]
    else:
        try:
            pool = [int(piece) for piece in text.split(",")]
        except ValueError:
            raise UsageError(f"--styles {text}: expected random, all, or style ids such as 0,5,17") from None
        wrong = [style_id for style_id in pool if not 0 <= style_id < num_styles]
        if wrong:
            raise UsageError(
                f"--styles {text}: no style {wrong[0]}; this checkpoint has styles 0 to {num_styles - 1}"
            )
        if len(set(pool)) < len(pool):
            raise UsageError(f"--styles {text}: a style is listed twice; list each once")
    shuffled = text == "random"
    if captions_per_image is None:
        captions_per_image = 2 if shuffled else len(pool)
    if captions_per_image < 1:
        raise UsageError(f"--captions-per-image {captions_per_image}: expected at least 1")
    return tuple(pool), shuffled, captions_per_image


def checked_ids(value: Any, where: str) -> list[int]:
    """Return a recorded list of style ids, None as empty. Raises UsageError for anything else."""
    if value is None:
        return []
    return [check_int(one, where, 0, 2**31) for one in check_kind(value, list, where)]
