"""The reviewed word lists of the lexicon neutraliser: which words tell who a person is, and what stands for them.

`words.txt` is the list; this file reads it, derives plurals and verb forms, names the general word of each kind and form, and
decides about words in no list: a slip of a listed word, or whatever the part-of-speech tagger makes of it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
LETTERS = "abcdefghijklmnopqrstuvwxyz"

# kind -> its general word in each form. Nouns: singular, plural. Modifiers: before a noun or after "is", else. Verbs: base,
# third person, -ing, past.
GENERAL: dict[str, dict[str, str]] = {
    "person": {"singular": "person", "plural": "people"},
    "upper": {"singular": "top", "plural": "tops"},
    "lower": {"singular": "bottom", "plural": "bottoms"},
    "garment": {"singular": "garment", "plural": "garments"},
    "shoe": {"singular": "shoe", "plural": "shoes"},
    "accessory": {"singular": "accessory", "plural": "accessories"},
    "item": {"singular": "item", "plural": "items"},
    "hair": {"singular": "hair", "plural": "hair"},
    "pattern": {"singular": "pattern", "plural": "patterns"},
    "part": {"singular": "part", "plural": "parts"},
    "colour_noun": {"singular": "colour", "plural": "colours"},
    "colour": {"modifier": "coloured", "else": "colour"},
    "quality": {"modifier": "certain", "else": "certain"},
    "material": {"modifier": "certain", "else": "material"},
    "view": {"modifier": "side on", "else": "side on"},
    "place": {"modifier": "side", "else": "side"},
    "action": {"base": "go", "third": "goes", "ing": "going", "past": "went"},
    "motion": {"modifier": "going", "else": "going"},
}
NOUNS = tuple(kind for kind, forms in GENERAL.items() if "plural" in forms)
MODIFIERS = tuple(kind for kind, forms in GENERAL.items() if "modifier" in forms)
PRONOUNS = {
    "he": "one",
    "she": "one",
    "him": "one",
    "her": "one",
    "his": "one's",
    "hers": "one's",
    "himself": "oneself",
    "herself": "oneself",
}
SAME_KIND = {"shade": "colour"}  # sections that only keep the list readable


@dataclass(frozen=True)
class Lexicon:
    """phrases: lower-case words joined by one space -> (kind, form). longest: first word -> most words of a phrase."""

    phrases: dict[str, tuple[str, str]]
    longest: dict[str, int]
    version: str  # changes with the lists, so that cached neutral texts are made again

    def kind_of(self, phrase: str) -> str | None:
        """Give the kind of a word or phrase, None when it is not in the lists."""
        found = self.phrases.get(phrase.lower())
        return found[0] if found else None


def plural_of(noun: str) -> str:
    """Give the regular plural of a noun (or third person of a verb): watch -> watches, accessory -> accessories."""
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(s|x|z|ch|sh)$", noun) else "s")


def verb_forms(verb: str, past: str | None = None) -> dict[str, str]:
    """Give the forms of a verb: base, third, ing, past. Short verbs double their last letter (jog, jogging)."""
    stem = verb
    if re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", verb) or re.fullmatch(r"squat|strut", verb):
        stem = verb + verb[-1]
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
    """Give form -> spelling for one entry of a section."""
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
    for section, entries in read_sections(HERE / "words.txt").items():
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
    return Lexicon(phrases, longest, digest[:12])


@cache
def kept_words() -> frozenset[str]:
    """Words of how a caption is said (keep.txt), with their plurals, which `generalize` leaves alone."""
    words = [word for entries in read_sections(HERE / "keep.txt").values() for word in entries]
    return frozenset(words) | frozenset(plural_of(word) for word in words)


@cache
def function_words() -> frozenset[str]:
    """Words that a writer does not choose by topic (function_words.txt)."""
    return frozenset(
        word for entries in read_sections(HERE / "function_words.txt").values() for word in entries
    )


# --------------------------------------------------------------------------------------------------------------- one word


@lru_cache(maxsize=200_000)
def facts_of_word(word: str, generalize: bool) -> tuple[int, str | None, str | None]:
    """Give (most words of a phrase that begins so, kind, form) of a lower-case word; kind and form are None when it is to stay.

    A word in no list has the kind of the listed word that it misspells or, with `generalize`, thing or quality by its tag.
    A misspelt function word stays, since misspelling is manner; so do words of other alphabets.
    """
    longest = lexicon().longest.get(word, 0)
    if word in lexicon().phrases:
        return longest, *lexicon().phrases[word]
    if (
        word in kept_words()
        or word in function_words()
        or word in PRONOUNS
        or len(word) < 3
        or not word.isascii()
    ):
        return longest, None, None
    meant = word if is_english(word) else correction(word)
    if meant in lexicon().phrases:
        return longest, *lexicon().phrases[meant]
    if not generalize or meant in kept_words() or meant in function_words():
        return longest, None, None
    tag = tag_of(word)
    if tag in ("NN", "NNP"):
        return longest, "thing", "singular"
    if tag in ("NNS", "NNPS"):
        return longest, "thing", "plural"
    return longest, *(("quality", "any") if tag in ("JJ", "JJR", "JJS") else (None, None))


def correction(word: str) -> str:
    """Give the listed word that is one slip away (two letters swapped, one missing, extra or wrong), else the word itself."""
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    swapped = [a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1]
    missing = [a + letter + b for a, b in cuts for letter in LETTERS]
    extra = [a + b[1:] for a, b in cuts if b]
    wrong = [a + letter + b[1:] for a, b in cuts if b for letter in LETTERS]
    listed = listed_words()
    return next((meant for meant in [*swapped, *missing, *extra, *wrong] if meant in listed), word)


@cache
def listed_words() -> frozenset[str]:
    return frozenset(lexicon().phrases) | function_words() | kept_words()


def is_english(word: str) -> bool:
    """Tell whether the tagger's dictionary has a lower-case word."""
    from textblob.en import parser  # slow to import

    return word in parser.lexicon


@lru_cache(maxsize=200_000)
def tag_of(word: str) -> str:
    """Tag one lower-case word (Penn tags). The tagger looks at words alone, so each is asked once."""
    from textblob.en import parser  # slow to import

    return parser.find_tags([word])[0][1]
