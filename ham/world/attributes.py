"""What a pedestrian can be, wear, carry and do: the vocabulary that drawing, writing and parsing share.

A pedestrian is a `dict[str, str]` from field to value. A field that does not apply is absent (no `bag_colour` without a bag,
no `lower` with a dress); "none" is a value only where wearing nothing is itself a fact (`headwear`, `bag`, `belt` ...). The
fields of one image are those that its viewpoint, crop and occluders leave visible; annotators write about these, no more.
"""

from __future__ import annotations

# shade -> (the plain color it belongs to, its RGB)
SHADES: dict[str, tuple[str, tuple[int, int, int]]] = {
    "black": ("black", (18, 18, 22)),
    "white": ("white", (246, 246, 244)),
    "light grey": ("grey", (154, 156, 162)),
    "dark grey": ("grey", (98, 100, 106)),
    "red": ("red", (206, 32, 38)),
    "dark red": ("red", (118, 20, 36)),
    "pink": ("pink", (240, 148, 178)),
    "orange": ("orange", (240, 128, 28)),
    "yellow": ("yellow", (244, 212, 44)),
    "light green": ("green", (122, 196, 96)),
    "dark green": ("green", (34, 84, 52)),
    "light blue": ("blue", (130, 184, 232)),
    "blue": ("blue", (36, 88, 200)),
    "navy": ("blue", (22, 34, 86)),
    "purple": ("purple", (120, 56, 148)),
    "brown": ("brown", (108, 68, 40)),
    "beige": ("beige", (212, 190, 150)),
}
COLORS = tuple(SHADES)
HAIR_COLORS = ("black", "brown", "blond", "red", "grey")

# Of the person: the same in every image of an identity.
PERSON_FIELDS: dict[str, tuple[str, ...]] = {
    "gender": ("man", "woman"),
    "build": ("slim", "average", "heavy"),
    "hair_length": ("bald", "short", "shoulder", "long", "ponytail"),
    "hair_colour": HAIR_COLORS,
    "headwear": ("none", "cap", "hat", "beanie"),
    "headwear_colour": COLORS,
    "glasses": ("none", "glasses", "sunglasses"),
    "upper": ("t-shirt", "shirt", "blouse", "sweater", "hoodie", "vest", "jacket", "coat", "dress"),
    "upper_colour": COLORS,
    "upper_pattern": ("plain", "striped", "checked", "dotted", "logo", "color-block"),
    "upper_second_colour": COLORS,  # of the stripes, checks, dots or the lower half (color-block)
    "inner_colour": COLORS,  # of the shirt under a vest or an open jacket
    "sleeve": (
        "sleeveless",
        "short",
        "long",
    ),  # sleeveless and short only for t-shirt, shirt, blouse and dress
    "neckwear": ("none", "scarf", "tie"),
    "neckwear_colour": COLORS,
    "watch": ("none", "watch"),
    "belt": ("none", "belt"),
    "belt_colour": COLORS,
    "lower": ("trousers", "jeans", "leggings", "shorts", "skirt"),
    "lower_colour": COLORS,
    "lower_length": ("short", "knee", "long"),  # shorts: short, knee; skirt and dress: all; the others: long
    "shoes": ("sneakers", "boots", "sandals", "heels"),
    "shoes_colour": COLORS,
    "socks": ("none", "socks"),
    "socks_colour": COLORS,
    "bag": ("none", "backpack", "handbag", "shoulder bag", "suitcase"),
    "bag_colour": COLORS,
    "carried": ("none", "phone", "umbrella", "book", "cup"),
}

# Of one image. Left and right are those of the image, not of the person.
IMAGE_FIELDS: dict[str, tuple[str, ...]] = {
    "view": ("front", "back", "side"),
    "action": ("walking", "standing"),
    "bag_side": ("left", "right"),  # front and back view only; on the other side of what is carried
    "carried_side": ("left", "right"),
    "scene": ("street", "grass", "stairs", "wall", "crosswalk"),  # absent where there is nothing to name
}

FIELDS: dict[str, tuple[str, ...]] = PERSON_FIELDS | IMAGE_FIELDS

# A field that exists only beside another: dependent -> (field, values for which it is absent).
ABSENT_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "hair_colour": ("hair_length", ("bald",)),
    "headwear_colour": ("headwear", ("none",)),
    "upper_second_colour": ("upper_pattern", ("plain", "logo")),
    "inner_colour": (
        "upper",
        tuple(kind for kind in PERSON_FIELDS["upper"] if kind not in ("vest", "jacket")),
    ),
    "sleeve": ("upper", ("vest",)),  # the arms are the inner shirt's
    "neckwear_colour": ("neckwear", ("none",)),
    "belt_colour": ("belt", ("none",)),
    "lower": ("upper", ("dress",)),  # a dress has a length and nothing below
    "lower_colour": ("upper", ("dress",)),
    "socks_colour": ("socks", ("none",)),
    "bag_colour": ("bag", ("none",)),
    "bag_side": ("bag", ("none", "backpack")),
    "carried_side": ("carried", ("none",)),
}


def is_absent(field: str, person: dict[str, str]) -> bool:
    """Return whether a field does not apply beside what the person has (the color of a bag without a bag)."""
    beside, values = ABSENT_WITH.get(field, ("gender", ()))
    return person.get(beside) in values


def base_color(shade: str) -> str:
    """Return the plain color of a shade ("navy" -> "blue"); hair colors and plain colors are returned as they are."""
    return SHADES[shade][0] if shade in SHADES else shade


def agree(field: str, said: str, drawn: str) -> bool:
    """Return whether a caption's value agrees with what was drawn.

    A color fits when it names the shade ("navy") or its plain color ("blue"); a wrong shade of the right color ("light blue"
    for navy) does not fit. Every other value must be equal.
    """
    if field.endswith("_colour") and field != "hair_colour":
        return said in (drawn, base_color(drawn))
    return said == drawn
