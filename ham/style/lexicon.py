"""The reviewed word lists of the lexicon neutralizer: which words describe a person, and the general word that replaces them.

`words.txt` is the list; this file reads it, derives plurals and verb forms, defines the general word of each kind and form, and
decides about words in no list: a misspelling of a listed word, or a noun or an adjective by the part-of-speech tagger.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from ham.style.spelling import correction

HERE = Path(__file__).resolve().parent
RULES_VERSION = (
    2  # raise it when neutral.py or context.py changes what they write, so that cached texts are made again
)

# kind -> its general word in each form. Nouns: singular, plural. Modifiers: before a noun or after "is", else. Verbs: base,
# third person, -ing, past. Everything worn is a "garment": a word of its own for dresses, skirts or glasses would reveal them.
# "move" takes an object or none, like the verbs that it replaces.
GENERAL: dict[str, dict[str, str]] = {
    "person": {"singular": "person", "plural": "people"},
    "garment": {"singular": "garment", "plural": "garments"},
    "upper": {"singular": "garment", "plural": "garments"},
    "lower": {"singular": "garment", "plural": "garments"},
    "shoe": {"singular": "garment", "plural": "garments"},
    "accessory": {"singular": "garment", "plural": "garments"},
    "item": {"singular": "item", "plural": "items"},
    "hair": {"singular": "hair", "plural": "hair"},
    "pattern": {"singular": "pattern", "plural": "patterns"},
    "part": {"singular": "part", "plural": "parts"},
    "scene": {"singular": "place", "plural": "places"},
    "color_noun": {"singular": "color", "plural": "colors"},
    "color": {"modifier": "colored", "else": "color"},
    "quality": {"modifier": "certain", "else": "certain"},
    "material": {"modifier": "certain", "else": "material"},
    "view": {"modifier": "side on", "else": "side on"},
    "place": {"modifier": "side", "else": "side"},
    "action": {"base": "move", "third": "moves", "ing": "moving", "past": "moved"},
    "motion": {"modifier": "moving", "else": "moving"},
    "direction": {"any": "along"},
    "bearing": {"any": "toward"},
    "thing": {"singular": "thing", "plural": "things"},
}
NOUNS = tuple(kind for kind, forms in GENERAL.items() if "plural" in forms)
MODIFIERS = tuple(kind for kind, forms in GENERAL.items() if "modifier" in forms)
WORN = ("garment", "upper", "lower", "shoe", "accessory")
# "one" agrees with the verbs of "he" and "she"; "their" and "them" do not read like the contraction "she's" -> "one's".
PRONOUNS = {
    "he": "one",
    "she": "one",
    "him": "them",
    "her": "them",
    "his": "their",
    "hers": "theirs",
    "himself": "themself",
    "herself": "themself",
}
SAME_KIND = {"shade": "color", "origin": "quality"}  # sections that only keep the list readable


@dataclass(frozen=True)
class Lexicon:
    """phrases: lower-case words joined by one space -> (kind, form). longest: first word -> most words of a phrase."""

    phrases: dict[str, tuple[str, str]]
    longest: dict[str, int]
    proper: frozenset[str]  # words that are always capitalized: their capital is no choice of the writer
    version: str  # changes with the lists and rules, so that cached neutral texts are made again

    def kind_of(self, phrase: str) -> str | None:
        """Return the kind of a word or phrase, None when it is not in the lists."""
        found = self.phrases.get(phrase.lower())
        return found[0] if found else None


def plural_of(noun: str) -> str:
    """Return the regular plural of a noun (or third person of a verb): watch -> watches, accessory -> accessories."""
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(s|x|z|ch|sh)$", noun) else "s")


def verb_forms(verb: str, past: str | None = None) -> dict[str, str]:
    """Return the forms of a verb: base, third, ing, past. Short verbs double their last letter (jog, jogging)."""
    stem = verb
    if re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", verb) or re.fullmatch(r"squat|strut", verb):
        stem = verb + verb[-1]
    elif verb.endswith("ie"):
        stem = verb[:-2] + "y"
    elif re.search(r"[^eoy]e$", verb):
        stem = verb[:-1]
    regular = verb[:-1] + "ied" if re.search(r"[^aeiou]y$", verb) else stem + "ed"
    return {
        "base": verb,
        "third": "goes" if verb == "go" else plural_of(verb),
        "ing": stem + "ing",
        "past": past or regular,
    }


def read_sections(path: Path) -> dict[str, list[str]]:
    """Read a word list: `# comment`, `[section]`, entries separated by commas; entries before any section go under ""."""
    sections: dict[str, list[str]] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            name = line[1:-1]
        elif line and not line.startswith("#"):
            sections.setdefault(name, []).extend(entry.strip() for entry in line.split(",") if entry.strip())
    return sections


def forms_of(kind: str, entry: str) -> dict[str, str]:
    """Return form -> spelling for one entry of a section."""
    if kind in NOUNS:
        if entry.startswith("+"):
            return {"plural": entry[1:]}
        singular, _, plural = entry.partition("/")
        return {"singular": singular, "plural": plural or plural_of(singular)}
    if kind == "action":
        verb, _, past = entry.partition("/")
        return verb_forms(verb, past or None)
    return {"any": entry}


@cache
def lexicon() -> Lexicon:
    """Build the lexicon of words.txt. Where two sections know a word, the first one has it."""
    phrases: dict[str, tuple[str, str]] = {}
    for kind, forms in GENERAL.items():
        for form, word in forms.items():
            phrases.setdefault(word, (kind, form))
    proper: list[str] = []
    for section, entries in read_sections(HERE / "words.txt").items():
        if section == "origin":
            proper += entries
        kind = SAME_KIND.get(section, section)
        for entry in entries:
            for form, phrase in forms_of(kind, entry).items():
                phrases.setdefault(phrase, (kind, form))
    longest: dict[str, int] = {}
    for phrase in phrases:
        words = phrase.split()
        longest[words[0]] = max(longest.get(words[0], 0), len(words))
    digest = hashlib.sha256(
        "".join(f"{p}={k}.{f};" for p, (k, f) in sorted(phrases.items())).encode()
    ).hexdigest()
    return Lexicon(phrases, longest, frozenset(proper), f"{digest[:12]}-{RULES_VERSION}")


@cache
def kept_words() -> frozenset[str]:
    """Return the words of how a caption is written (keep.txt), with their plurals, which `generalize` leaves alone."""
    words = [word for entries in read_sections(HERE / "keep.txt").values() for word in entries]
    return frozenset(words) | frozenset(plural_of(word) for word in words)


@cache
def function_words() -> frozenset[str]:
    """Return the words that a writer does not choose by topic (function_words.txt)."""
    return frozenset(
        word for entries in read_sections(HERE / "function_words.txt").values() for word in entries
    )


# --------------------------------------------------------------------------------------------------------------- one word


@dataclass(frozen=True, slots=True)
class WordFacts:
    """What is known about a lower-case word on its own.

    longest: most words of a listed phrase that begins with it. kind, form: None when the word is to stay.
    tag: its commonest part of speech (Penn tags). is_listed: in words.txt itself, or a misspelling of such a word.
    """

    longest: int
    kind: str | None
    form: str | None
    tag: str
    is_listed: bool


@lru_cache(maxsize=200_000)
def facts_of_word(word: str, generalize: bool) -> WordFacts:
    """Return the facts of a lower-case word.

    A word in no list has the kind of the listed word that it misspells or, with `generalize`, thing or quality by its tag.
    A misspelt function word stays, since misspelling is part of the style; so do words of other alphabets.
    """
    known = lexicon()
    longest = known.longest.get(word, 0)
    tag = tag_of(word)
    stays = WordFacts(longest, None, None, tag, False)
    if word in known.phrases:
        return WordFacts(longest, *known.phrases[word], tag, True)
    if word in kept_words() or word in function_words() or word in PRONOUNS:
        return stays
    if len(word) < 3 or not word.isascii() or word.isdigit():
        return stays
    meant = word if is_english(word) else correction(word)
    if meant in known.phrases:
        return WordFacts(longest, *known.phrases[meant], tag, True)
    if not generalize or meant in kept_words() or meant in function_words():
        return stays
    if tag[:2] == "NN":
        form = "plural" if tag in ("NNS", "NNPS") else "singular"
        return WordFacts(longest, "thing", form, tag, False)
    return WordFacts(longest, "quality", "any", tag, False) if tag[:2] == "JJ" else stays


def is_english(word: str) -> bool:
    """Return whether the tagger's dictionary has a lower-case word."""
    from textblob.en import parser  # slow to import

    return word in parser.lexicon


@lru_cache(maxsize=200_000)
def tag_of(word: str) -> str:
    """Return the Penn tag of one lower-case word. The tagger looks at words alone, so each is asked once."""
    from textblob.en import parser  # slow to import

    return parser.find_tags([word])[0][1]
