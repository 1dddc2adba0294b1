"""Sentence grammars: one function for each syntax, from a scene to sentences without capitals and final stops.

Punctuation and capitals are added in finish.py; noun phrases come from phrases.py.
"""

from __future__ import annotations

from collections.abc import Callable

from ham.world.clauses import Scene, verb_of
from ham.world.phrases import Item, series

BODY_OF = {
    "headwear": "head",
    "neckwear": "neck",
    "upper": "upper body",
    "lower": "lower body",
    "belt": "waist",
    "watch": "wrist",
    "socks": "feet",
    "shoes": "feet",
}
NOWHERE = "is in view"


def sentences(first: str, he: str, clauses: list[str]) -> list[str]:
    """Return one sentence a clause: the first about `first`, the others about `he`."""
    return [f"{first if place == 0 else he} {clause}" for place, clause in enumerate(clauses or [NOWHERE])]


def full(scene: Scene) -> list[str]:
    said = scene.clauses("is", most=4) + scene.is_doing()
    return sentences(f"the {scene.who}", scene.he, said)


def pronoun(scene: Scene) -> list[str]:
    """Return "he is wearing ..."; what the person is like comes last, as its noun is not written."""
    said = scene.clauses("is", most=4) + scene.is_doing()
    *like, _ = scene.who.split()
    if not scene.gender:
        return sentences(f"the {scene.who}", scene.he, said)
    return sentences(scene.he, scene.he, said + ([f"is {' '.join(like)}"] if like else []))


def wears(scene: Scene) -> list[str]:
    said = scene.clauses("present", most=3) + scene.is_doing()
    return sentences(f"the {scene.who}", scene.he, said)


def has(scene: Scene) -> list[str]:
    said = scene.clauses("on", most=3) + scene.is_doing()
    return sentences(f"the {scene.who}", scene.he, said)


def this(scene: Scene) -> list[str]:
    said = scene.clauses("is", most=3) + scene.is_doing()
    return sentences(f"this {scene.who}", scene.he, said)


def template(scene: Scene) -> list[str]:
    worn, hair = scene.items, []
    if scene.items and verb_of(scene.items[0]) == "have":
        hair, worn = [scene.items[0]], scene.items[1:]
    late = [item for item in worn if verb_of(item) == "have"]
    worn = [item for item in worn if verb_of(item) != "have"]
    start = scene.a_person + (f" with {hair[0].phrase}" if hair else "")
    parts = [f"{start} wearing {scene.join([item.phrase for item in worn])}" if worn else start]
    parts += [f"with {scene.join([item.phrase for item in late])}"] if late else []
    return [", ".join([*parts, *scene.doing])]


def with_first(scene: Scene) -> list[str]:
    """Return "a man with short hair is wearing a red shirt. he is carrying a bag"."""
    ahead, rest = scene.split("hair")
    if not ahead:
        ahead, rest = scene.split("bag", "glasses", "headwear")
    if not ahead:
        ahead, rest = scene.items[:1], scene.items[1:]
    first = (
        f"{scene.a_person} with {scene.join([item.phrase for item in ahead])}" if ahead else scene.a_person
    )
    return sentences(first, scene.he, scene.clauses("is", 4, rest) + scene.is_doing())


def in_clothes(scene: Scene) -> list[str]:
    worn = [item for item in scene.items if verb_of(item) == "wear"]
    rest = [item for item in scene.items if verb_of(item) != "wear"]
    parts = [f"{scene.a_person} in {scene.join([item.phrase for item in worn])}" if worn else scene.a_person]
    return [", ".join(parts + scene.clauses("ing", 4, rest) + scene.doing)]


def bare(scene: Scene) -> list[str]:
    said = scene.clauses("ing", most=6)
    start = f"{scene.who} {said[0]}" if said else scene.who
    return [", ".join([start, *said[1:], *scene.doing])]


def fragments(scene: Scene) -> list[str]:
    parts = [scene.who, *(item.note for item in scene.items), *scene.doing]
    return [", ".join(parts)]


def splice(scene: Scene) -> list[str]:
    worn = [item for item in scene.items if verb_of(item) == "wear"]
    parts = [f"{scene.a_person} {scene.clause(worn, 'is')}" if worn else f"{scene.a_person} is here"]
    for item in (item for item in scene.items if verb_of(item) != "wear"):
        if item.name == "hair" and item.noun == "hair" and item.adjectives:
            parts.append(f"{scene.his} {item.subject} {item.predicate}")
        else:
            parts.append(f"{scene.he} {scene.clause([item], 'present')}")
    parts += [f"{scene.he} {clause}" for clause in scene.is_doing()]
    return [", ".join(parts)]


def place_of(item: Item) -> str:
    """Return the part of the body where a thing is worn."""
    return "body" if "dress" in item.noun or "gown" in item.noun else BODY_OF[item.name]


def body(scene: Scene) -> list[str]:
    worn = [item for item in scene.items if item.name in BODY_OF and not item.absent]
    rest = [item for item in scene.items if item not in worn]
    said = scene.clauses("present", 3, [item for item in rest if verb_of(item) == "have"])
    if worn:
        places = [f"{item.phrase} on {scene.his} {place_of(item)}" for item in worn]
        said.append(f"{scene.verb('wear', 'present')} {scene.join(places)}")
    said += scene.clauses("present", 3, [item for item in rest if verb_of(item) != "have"]) + scene.is_doing()
    return sentences(f"this {scene.who}", scene.he, said)


def doing(scene: Scene) -> list[str]:
    if scene.doing:
        return sentences(f"{scene.a_person} {series(scene.doing)}", scene.he, scene.clauses("is", most=5))
    first, *rest = scene.runs(5) or [[]]
    said = [f"is seen {scene.clause(first, 'ing')}"] if first else []
    return sentences(scene.a_person, scene.he, said + [scene.clause(run, "is") for run in rest])


def dressed(scene: Scene) -> list[str]:
    worn = [item for item in scene.items if verb_of(item) == "wear"]
    rest = [item for item in scene.items if verb_of(item) != "wear"]
    said = [f"is dressed in {scene.join([item.phrase for item in worn])}"] if worn else []
    return sentences(f"the {scene.who}", scene.he, said + scene.clauses("is", 3, rest) + scene.is_doing())


def there(scene: Scene) -> list[str]:
    said = scene.clauses("ing", most=4)
    start = f"there is {scene.a_person}" + (f" {said[0]}" if said else "")
    rest = [scene.clause(run, "is") for run in scene.runs(4)[1:]]
    return [start, *(f"{scene.he} {clause}" for clause in rest + scene.is_doing())]


def possessive(scene: Scene) -> list[str]:
    said, owner = [], f"the {scene.who}'s"
    for item in scene.items:
        if item.absent or not item.adjectives or item.noun == "head":
            said.append(f"{scene.he if said else 'the ' + scene.who} has {item.phrase}")
        else:
            said.append(f"{owner} {item.subject} {item.predicate}")
        owner = scene.his
    said += [f"{scene.he if said else 'the ' + scene.who} {clause}" for clause in scene.is_doing()]
    return said or [f"the {scene.who} {NOWHERE}"]


def runon(scene: Scene) -> list[str]:
    """Return everything in one breath: "the lady wears a white shirt black shorts with black heels she carries a bag"."""
    parts = [f"the {scene.who}"]
    for place, run in enumerate(scene.runs(8)):
        phrases = [item.phrase for item in run]
        last = f" with {phrases.pop()}" if len(phrases) > 2 else ""
        parts.append(
            f"{scene.he + ' ' if place else ''}{scene.verb(verb_of(run[0]), 'present')} {' '.join(phrases)}{last}"
        )
    parts += [f"{scene.he if len(parts) > 1 else ''} {clause}".strip() for clause in scene.is_doing()]
    return [" ".join(parts if len(parts) > 1 else [*parts, NOWHERE])]


def relative(scene: Scene) -> list[str]:
    clauses = scene.clauses("is", most=4) + scene.is_doing()
    return [f"{scene.a_person} who {scene.join(clauses or [NOWHERE])}"]


def participle(scene: Scene) -> list[str]:
    end = scene.is_doing() or [NOWHERE]
    worn = [item for item in scene.items if verb_of(item) != "have"]
    rest = [item for item in scene.items if verb_of(item) == "have"]
    return [", ".join([*scene.clauses("ing", 6, worn), f"the {scene.who} {end[0]}"])] + [
        f"{scene.he} {clause}" for clause in scene.clauses("is", 3, rest)
    ]


def picture(scene: Scene) -> list[str]:
    told = with_first(scene)
    return [f"in this picture, {told[0]}", *told[1:]]


def observer(scene: Scene) -> list[str]:
    told = there(scene)
    return ["i can see " + told[0].removeprefix("there is "), *told[1:]]


GRAMMARS: dict[str, Callable[[Scene], list[str]]] = {
    "full": full,
    "template": template,
    "wears": wears,
    "pronoun": pronoun,
    "has": has,
    "with": with_first,
    "this": this,
    "splice": splice,
    "body": body,
    "doing": doing,
    "dressed": dressed,
    "in": in_clothes,
    "bare": bare,
    "fragments": fragments,
    "possessive": possessive,
    "runon": runon,
    "relative": relative,
    "there": there,
    "participle": participle,
    "picture": picture,
    "observer": observer,
}


def plainly(who: str, items: list[Item], doing: list[str]) -> str:
    """Return the sentence of the plain manner: "a man with black hair wearing a shirt, carrying a bag, walking"."""
    by_verb: dict[str, list[Item]] = {"with": [], "wearing": [], "carrying": [], "holding": []}
    for item in items:
        verb = {"have": "with", "wear": "wearing", "carry": "carrying", "hold": "holding"}[verb_of(item)]
        by_verb[verb].append(item)
    parts = [f"{verb} {series([item.phrase for item in group])}" for verb, group in by_verb.items() if group]
    parts += [series(doing)] if doing else []
    head = f"{who} {parts.pop(0)}" if by_verb["with"] else who
    return f"{head} {', '.join(parts)}" if parts else head
