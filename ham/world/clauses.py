"""What one caption mentions, with the phrases and clauses that the sentence grammars are built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ham.world.phrases import Item, series, with_article

VERB_OF = {"hair": "have", "bag": "carry", "carried": "hold"}  # else "wear"
LAST = {"plain": " and ", "oxford": ", and ", "ands": " and "}


@dataclass
class Scene:
    """What one caption mentions, in its order, with the words of its annotator."""

    who: str  # "slim man"
    gender: str | None
    items: list[Item]
    doing: list[str]  # ["walking on the grass", "facing away"]
    words: dict[str, str]
    commas: str
    draw: Callable[[], float]

    @property
    def noun(self) -> str:
        return self.who.split()[-1]

    @property
    def he(self) -> str:
        return {"man": "he", "woman": "she", None: f"the {self.noun}"}[self.gender]

    @property
    def his(self) -> str:
        return {"man": "his", "woman": "her", None: "their"}[self.gender]

    @property
    def a_person(self) -> str:
        return with_article(self.who)

    def join(self, phrases: list[str]) -> str:
        """Join phrases as this annotator does: "a, b and c", "a, b, and c", "a and b and c"."""
        if self.commas == "ands":
            return " and ".join(phrases)
        return series(phrases, LAST[self.commas] if len(phrases) > 2 else " and ")

    def runs(self, most: int, items: list[Item] | None = None) -> list[list[Item]]:
        """Split things into runs of neighbors with one verb, at most `most` each."""
        found: list[list[Item]] = []
        for item in self.items if items is None else items:
            if found and verb_of(found[-1][0]) == verb_of(item) and len(found[-1]) < most:
                found[-1].append(item)
            else:
                found.append([item])
        return found

    def verb(self, verb: str, form: str) -> str:
        """Return a verb in a form: "is" (is wearing) | "present" (wears) | "ing" (wearing) | "on" (has on)."""
        if verb == "have":
            return "with" if form == "ing" else "has"
        if form == "on" and verb == "wear":
            return "has on"
        stem = {"wear": "wear", "carry": "carry", "hold": "hold"}[verb]
        if form == "present":
            return self.words["verb:carries" if verb == "carry" else f"verb:{stem}s"]
        word = self.words[f"verb:{stem}ing"]
        return word if form == "ing" else f"is {word}"

    def clause(self, run: list[Item], form: str) -> str:
        """Return a run as a clause: "is wearing a navy jacket and boots"."""
        return f"{self.verb(verb_of(run[0]), form)} {self.join([item.phrase for item in run])}"

    def clauses(self, form: str, most: int, items: list[Item] | None = None) -> list[str]:
        return [self.clause(run, form) for run in self.runs(most, items)]

    def is_doing(self) -> list[str]:
        """Return what the person does as a clause: ["is walking on the grass and facing away"], or []."""
        return [f"is {series(self.doing)}"] if self.doing else []

    def split(self, *names: str) -> tuple[list[Item], list[Item]]:
        """Split the things into those of some names and the others."""
        return (
            [item for item in self.items if item.name in names],
            [item for item in self.items if item.name not in names],
        )


def verb_of(item: Item) -> str:
    """Return how a person and a thing go together: have | wear | carry | hold; one can only "have" no hat."""
    return "have" if item.absent else VERB_OF.get(item.name, "wear")
