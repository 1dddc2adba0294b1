"""The words that annotators write and the parser reads: what word_table.py says, looked up by register.

phrases.py and grammar.py put the words in order, parser.py reads them back.
"""

from __future__ import annotations

from ham.world.attributes import COLORS, base_color
from ham.world.word_table import TABLE

REGISTERS = ("plain", "casual", "formal", "american", "british", "fashion")

# Shades described by light and dark alone, where an annotator does not use special names.
TONES = {
    "navy": "dark blue",
    "blue": "bright blue",
    "red": "bright red",
    "dark red": "dark red",
    "light grey": "light gray",
    "dark grey": "dark gray",
    "yellow": "bright yellow",
    "purple": "dark purple",
    "pink": "light pink",
    "brown": "dark brown",
    "beige": "light brown",
    "orange": "bright orange",
}

# A garment's pattern and sleeve behind it: "a t-shirt with white stripes and short sleeves"; {} is the second color.
BEHIND = {
    "upper_pattern:plain": "no pattern",
    "upper_pattern:striped": "{}stripes",
    "upper_pattern:checked": "{}checks",
    "upper_pattern:dotted": "{}dots",
    "upper_pattern:logo": "a logo",
    "upper_pattern:color-block": "{}color blocking",
    "sleeve:sleeveless": "no sleeves",
    "sleeve:short": "short sleeves",
    "sleeve:long": "long sleeves",
}

PAIRED = ("glasses", "lower", "shoes", "socks")  # fields whose things come in pairs, but for a skirt
SINGULAR = frozenset(
    {
        "skirt",
        "pencil skirt",
        "a-line skirt",
        "kilt",
        "sarong",
        "skort",
        "trouser",
        "footwear",
        "lower garment",
    }
)
MASS_NOUNS = frozenset({"hair", "footwear", "headwear", "luggage", "knitwear"})


def _read_table(text: str) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Return the rows of the table and the rarer words of each."""
    rows: dict[str, tuple[str, ...]] = {}
    rarer: dict[str, tuple[str, ...]] = {}
    key = ""
    for line in text.strip().splitlines():
        if line.lstrip().startswith("+"):
            rarer[key] += tuple(phrase.strip() for phrase in line.lstrip(" +").split(","))
            continue
        key, *phrases = (cell.strip() for cell in line.split("|"))
        rows[key] = tuple(phrases) + (phrases[0],) * (len(REGISTERS) - len(phrases))
        rarer[key] = ()
    return rows, rarer


ROWS, RARER = _read_table(TABLE)
PHRASES = {key: tuple(dict.fromkeys(ROWS[key] + RARER[key])) for key in ROWS}  # all that name a concept


def words_of(register: str) -> dict[str, str]:
    """Return the phrase of every concept ("lower:trousers") in one register ("slacks")."""
    column = REGISTERS.index(register)
    return {key: phrases[column] for key, phrases in ROWS.items()}


def color_words(register: str, granularity: str) -> dict[str, tuple[str, str]]:
    """Return for every shade (the phrase written, the color it conveys).

    granularity: "exact" (the register's name of the shade), "simple" (its plain color), "tones" (light, dark, bright),
    "colored" ("navy colored").
    """
    column = REGISTERS.index(register)
    said = {}
    for shade in COLORS:
        exact, base = ROWS[f"colour:{shade}"][column], base_color(shade)
        if granularity == "simple":
            said[shade] = (ROWS.get(f"base:{base}", (base,) * len(REGISTERS))[column], base)
        elif granularity == "tones":
            said[shade] = (TONES.get(shade, shade), shade)
        elif exact == base:  # "green" for dark green
            said[shade] = (exact, base)
        else:
            said[shade] = (exact, shade)
        if granularity == "colored" and said[shade][0] not in ("black", "white"):
            said[shade] = (said[shade][0] + " colored", said[shade][1])
    return said
