"""Sentence grammars: one function for each syntax, from a scene to sentences without capitals and final stops.

Punctuation, capitals, openings and closings are added in annotators.py; noun phrases come from phrases.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ham.world.phrases import Item, series, with_article

VERB_OF = {
    "hair": "have",
    "headwear": "wear",
    "glasses": "wear",
    "upper": "wear",
    "lower": "wear",
    "shoes": "wear",
    "bag": "carry",
    "carried": "hold",
}
PLACE_OF = {
    "hair": "on {} head",
    "headwear": "on {} head",
    "glasses": "on {} face",
    "upper": "on {} body",
    "lower": "on {} legs",
    "shoes": "on {} feet",
    "bag": "at {} side",
    "carried": "in {} hand",
}
KEY_OF = {
    "hair": "hair",
    "headwear": "head",
    "glasses": "eyes",
    "upper": "top",
    "lower": "bottoms",
    "shoes": "shoes",
    "bag": "bag",
    "carried": "hand",
}
WHERE = ("at the crossing", "near the shop", "on the street", "by the station", "in the park")


@dataclass
class Scene:
    """What one caption mentions, in its order, with the words of its annotator."""

    who: str  # "slim man"
    gender: str | None
    items: list[Item]
    doing: list[str]  # ["walking", "seen from behind"]
    words: dict[str, str]
    draw: Callable[[], float]

    @property
    def he(self) -> str:
        return {"man": "he", "woman": "she", None: f"the {self.who.split()[-1]}"}[self.gender]

    @property
    def his(self) -> str:
        return {"man": "his", "woman": "her", None: "their"}[self.gender]

    @property
    def a_person(self) -> str:
        return with_article(self.who)

    def verb(self, item: Item, form: str) -> str:
        """Conjugate the verb of an item: present | participle | past."""
        verb = verb_of(item)
        if verb == "have":
            return {"present": "has", "participle": "having", "past": "had"}[form]
        if verb == "hold":
            return {"present": "holds", "participle": "holding", "past": "held"}[form]
        stem = {"present": "s", "participle": "ing", "past": ""}[form]
        if verb == "wear":
            return self.words["verb:wore" if form == "past" else "verb:wear" + stem]
        return self.words[
            {"present": "verb:carries", "participle": "verb:carrying", "past": "verb:carried"}[form]
        ]

    def clauses(self, form: str, most: int) -> list[str]:
        """Return phrases such as "wears a navy jacket and boots": at most `most` neighbors with one verb are joined."""
        groups: list[list[Item]] = []
        for item in self.items:
            if groups and verb_of(groups[-1][0]) == verb_of(item) and len(groups[-1]) < most:
                groups[-1].append(item)
            else:
                groups.append([item])
        return [f"{self.verb(group[0], form)} {series([item.phrase for item in group])}" for group in groups]


def verb_of(item: Item) -> str:
    """Return how a person and a thing go together: have | wear | carry | hold; one can only "have" no hat."""
    return "have" if item.absent else VERB_OF[item.name]


def is_or_are(item: Item) -> str:
    return "are" if item.plural and not item.pair and not item.hedge else "is"


def pairs_of(items: list[Item], draw: Callable[[], float]) -> list[list[Item]]:
    """Split the items into runs of one or two."""
    runs, place = [], 0
    while place < len(items):
        size = 2 if draw() < 0.5 else 1
        runs.append(items[place : place + size])
        place += size
    return runs


def full(scene: Scene) -> list[str]:
    said = scene.clauses("present", most=2)
    if scene.doing:
        said.append(f"is {series(scene.doing)}")
    said = said or ["is in the " + scene.words["place:picture"]]
    return [f"the {scene.who} {said[0]}", *(f"{scene.he} {clause}" for clause in said[1:])]


def long(scene: Scene) -> list[str]:
    doing = f" who is {series(scene.doing)}" if scene.doing else ""
    said = scene.clauses("present", most=6) or ["stays in the " + scene.words["place:picture"]]
    return [f"{scene.a_person}{doing} {series(said, ' and also ' if len(said) > 2 else ' and ')}"]


def participle(scene: Scene) -> list[str]:
    end = series(scene.doing) if scene.doing else "on camera"
    return [", ".join([*scene.clauses("participle", most=6), f"the {scene.who} is {end}"])]


def fragments(scene: Scene) -> list[str]:
    return [scene.who, *(item.note for item in scene.items), *scene.doing]


def listing(scene: Scene) -> list[str]:
    return [", ".join([scene.who, *(item.note for item in scene.items), *scene.doing])]


def observer(scene: Scene) -> list[str]:
    starts = ("I notice", "I can also see", "I also notice", "I can see")
    said = [f"I see {scene.a_person}"]
    for turn, run in enumerate(pairs_of(scene.items, scene.draw)):
        said.append(f"{starts[turn % len(starts)]} {series([item.phrase for item in run])}")
    if scene.doing:
        said.append(f"I think {scene.he} is {series(scene.doing)}")
    return said


def this(scene: Scene) -> list[str]:
    noun = scene.who.split()[-1]
    said = scene.clauses("present", most=2)
    if scene.doing:
        said.append(f"is {series(scene.doing)}")
    said = said or ["is in the " + scene.words["place:picture"]]
    return [f"this {scene.who} {said[0]}", *(f"this {noun} {clause}" for clause in said[1:])]


def possessive(scene: Scene) -> list[str]:
    said, owner = [], f"the {scene.who}'s"
    for item in scene.items:
        if item.absent or not item.adjectives:
            said.append(f"{scene.he if said else 'the ' + scene.who} has {item.phrase}")
        else:
            said.append(f"{owner} {item.noun} {item.predicate}")
        owner = scene.his
    if scene.doing:
        said.append(f"{scene.he if said else 'the ' + scene.who} is {series(scene.doing)}")
    return said or [f"the {scene.who} is in the {scene.words['place:picture']}"]


def there(scene: Scene) -> list[str]:
    said = [f"there is {scene.a_person}" + (f" {series(scene.doing)}" if scene.doing else "")]
    for item in scene.items:
        place = "" if item.absent or item.noun == "head" else " " + PLACE_OF[item.name].format(scene.his)
        said.append(f"there {is_or_are(item)} {item.phrase}{place}")
    return said


def chain(scene: Scene) -> list[str]:
    return [", ".join([scene.a_person, *(f"with {item.phrase}" for item in scene.items), *scene.doing])]


def spoken(scene: Scene) -> list[str]:
    said = [f"see that {scene.who}?"]
    links = ("so {he}'s got {it}", "and {he}'s got {it}", "then {it}", "and yeah {it} too")
    parts = [
        links[0 if turn == 0 else 1 + int(scene.draw() * 3)].format(he=scene.he, it=item.phrase)
        for turn, item in enumerate(scene.items)
    ]
    if scene.doing:
        parts.append(
            f"and {scene.he}'s just {series(scene.doing)}"
            if parts
            else f"{scene.he}'s just {series(scene.doing)}"
        )
    return [said[0], ", ".join(parts)] if parts else said


def steps(scene: Scene) -> list[str]:
    links = ("then", "next", "after that", "then")
    parts = [f"first comes {scene.a_person}" + (f" {series(scene.doing)}" if scene.doing else "")]
    for turn, item in enumerate(scene.items):
        link = "and finally" if turn == len(scene.items) - 1 else links[turn % len(links)]
        parts.append(f"{link} {item.phrase}")
    return [", ".join(parts)]


def passive(scene: Scene) -> list[str]:
    said = []
    for item in scene.items:
        verb = {"have": "can be seen", "wear": "being worn", "carry": "being carried", "hold": "being held"}[
            verb_of(item)
        ]
        verb = verb if verb_of(item) == "have" else f"{is_or_are(item)} {verb}"
        owner = "" if said else f" {'on' if verb_of(item) == 'have' else 'by'} the {scene.who}"
        said.append(f"{item.phrase} {verb}{owner}")
    if scene.doing:
        said.append(f"{scene.he if said else 'the ' + scene.who} can be seen {series(scene.doing)}")
    return said or [f"the {scene.who} can be seen"]


def keyvalue(scene: Scene) -> list[str]:
    parts = [f"who: {scene.who}"]
    for item in scene.items:
        parts.append(f"{KEY_OF[item.name]}: {item.note.removesuffix(' hair').removesuffix(' head')}")
    if scene.doing:
        parts.append(f"pose: {series(scene.doing)}")
    return ["; ".join(parts)]


def search(scene: Scene) -> list[str]:
    starts = ("check for", "watch out for", "also look for")
    said = [f"look for {scene.a_person}"]
    for turn, run in enumerate(pairs_of(scene.items, scene.draw)):
        said.append(f"{starts[turn % len(starts)]} {series([item.phrase for item in run])}")
    if scene.doing:
        said.append(f"{scene.he} should be {series(scene.doing)}")
    return said


def story(scene: Scene) -> list[str]:
    doing = f"was {series(scene.doing)}" if scene.doing else "came by"
    where = WHERE[int(scene.draw() * len(WHERE))]
    return [
        f"{where} {scene.a_person} {doing}",
        *(f"{scene.he} {clause}" for clause in scene.clauses("past", most=3)),
    ]


def relative(scene: Scene) -> list[str]:
    parts = []
    for item in scene.items:
        plain = item.absent or not item.adjectives
        parts.append(f"who has {item.phrase}" if plain else f"whose {item.noun} {item.predicate}")
    if scene.doing:
        parts.append(f"who is {series(scene.doing)}")
    return [f"it is {scene.a_person} {series(parts, ' and ')}" if parts else f"it is {scene.a_person}"]


GRAMMARS: dict[str, Callable[[Scene], list[str]]] = {
    "full": full,
    "long": long,
    "participle": participle,
    "fragments": fragments,
    "list": listing,
    "observer": observer,
    "this": this,
    "possessive": possessive,
    "there": there,
    "chain": chain,
    "spoken": spoken,
    "steps": steps,
    "passive": passive,
    "keyvalue": keyvalue,
    "search": search,
    "story": story,
    "relative": relative,
}
