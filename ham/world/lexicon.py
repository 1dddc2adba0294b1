"""The words that annotators write and the parser reads: one table of synonyms, one column for each register.

grammar.py puts the words in order, parser.py reads them back. A row is "field:value | plain | casual | formal |
american | british | fashion"; a row of one column is the same in all. Every phrase names exactly one value, or, for a word
that hair and clothes share ("silver", "short"), one value for each of the two.
"""

from __future__ import annotations

from ham.world.attributes import COLORS, base_color

REGISTERS = ("plain", "casual", "formal", "american", "british", "fashion")

TABLE = """
gender:man              | man | guy | gentleman | man | bloke | male
gender:woman            | woman | girl | lady | woman | lass | female
build:slim              | slim | skinny | slender | thin | slim | lean
build:average           | average-sized | normal-sized | medium-built | average-sized | medium-sized | regular-sized
build:heavy             | heavy | chubby | stout | heavyset | stocky | broad
hair_length:bald        | bald | bald | bald | shaved | bald | shaven
hair_length:short       | short | short | short | short | short | cropped
hair_length:shoulder    | shoulder-length | medium-length | shoulder-length | mid-length | medium-length | shoulder-length
hair_length:long        | long | long | long | long | long | flowing
hair_length:ponytail    | ponytail | ponytail | tied-back | ponytail | tied-back | ponytail
hair_colour:black       | black | black | black | black | black | jet-black
hair_colour:brown       | brown | brown | brunette | brown | chestnut | brunette
hair_colour:blond       | blond | blonde | blond | blond | fair | golden
hair_colour:red         | red | ginger | auburn | red | ginger | auburn
hair_colour:grey        | grey | grey | grey | gray | grey | silver
headwear:cap            | cap | ball cap | peaked cap | baseball cap | cap | baseball cap
headwear:hat            | hat | hat | brimmed hat | hat | sun hat | fedora
headwear:beanie         | beanie | beanie | knitted hat | beanie | woolly hat | knitted hat
glasses:glasses         | glasses | specs | spectacles | eyeglasses | specs | frames
glasses:sunglasses      | sunglasses | shades | dark glasses | sunglasses | sunglasses | shades
upper:t-shirt           | t-shirt | tee | t-shirt | tee shirt | t-shirt | tee
upper:shirt             | shirt | shirt | collared shirt | button-down | shirt | button-down
upper:sweater           | sweater | sweater | pullover | sweater | jumper | knit top
upper:hoodie            | hoodie | hoodie | hooded sweatshirt | hoodie | hooded top | hoodie
upper:jacket            | jacket | jacket | jacket | windbreaker | jacket | blazer
upper:coat              | coat | coat | overcoat | coat | overcoat | trench coat
upper_pattern:plain     | plain | plain | unpatterned | solid | plain | solid
upper_pattern:striped   | striped | stripy | striped | striped | stripy | pinstriped
upper_pattern:checked   | checked | checkered | chequered | plaid | chequered | plaid
upper_pattern:dotted    | dotted | spotted | dotted | polka-dot | spotted | polka-dot
upper_pattern:logo      | logo | printed | branded | graphic | branded | graphic
sleeve:sleeveless       | sleeveless
sleeve:short            | short-sleeved | short-sleeve | short-sleeved | short-sleeve | short-sleeved | short-sleeved
sleeve:long             | long-sleeved | long-sleeve | long-sleeved | long-sleeve | long-sleeved | long-sleeved
lower:trousers          | trousers | pants | slacks | pants | trousers | chinos
lower:jeans             | jeans | jeans | denim trousers | denim pants | jeans | denims
lower:shorts            | shorts
lower:skirt             | skirt
lower_length:short      | short | short | above-knee | short | short | mini
lower_length:knee       | knee-length | knee-length | knee-length | knee-length | knee-length | midi
lower_length:long       | long | long | full-length | long | long | full-length
shoes:sneakers          | sneakers | kicks | sports shoes | tennis shoes | trainers | runners
shoes:boots             | boots | boots | boots | boots | boots | ankle boots
shoes:sandals           | sandals | flip-flops | sandals | flip-flops | sandals | slides
shoes:heels             | heels | heels | high-heeled shoes | high heels | court shoes | stilettos
bag:backpack            | backpack | pack | knapsack | backpack | rucksack | backpack
bag:handbag             | handbag | handbag | handbag | purse | handbag | clutch
bag:shoulder bag        | shoulder bag | side bag | shoulder bag | messenger bag | satchel | crossbody bag
bag:suitcase            | suitcase | roller bag | travel case | suitcase | wheeled case | trolley case
carried:phone           | phone | phone | mobile phone | cell phone | mobile | smartphone
carried:umbrella        | umbrella | umbrella | umbrella | umbrella | brolly | parasol
carried:book            | book | book | volume | book | book | magazine
carried:cup             | cup | coffee | paper cup | coffee cup | takeaway cup | drink
view:front              | facing the camera | facing us | turned to the viewer | facing the camera | facing us | facing the lens
view:back               | seen from behind | facing away | facing away | seen from behind | seen from the back | facing away
view:side               | seen from the side | side-on | in profile | seen from the side | side-on | in profile
action:walking          | walking | strolling | walking | walking | strolling | striding
action:standing         | standing | waiting | standing still | standing | standing about | posing
colour:black            | black
colour:white            | white | white | white | white | white | ivory
colour:light grey       | light grey | light grey | pale grey | light gray | pale grey | silver
colour:dark grey        | dark grey | dark grey | dark grey | dark gray | dark grey | charcoal
colour:red              | red | red | scarlet | red | red | crimson
colour:dark red         | dark red | dark red | deep red | maroon | maroon | burgundy
colour:pink             | pink | pink | pink | pink | pink | rose
colour:orange           | orange
colour:yellow           | yellow
colour:light green      | light green | lime | pale green | lime | pale green | mint
colour:dark green       | dark green | dark green | deep green | forest green | bottle green | olive
colour:light blue       | light blue | baby blue | pale blue | baby blue | sky blue | sky blue
colour:blue             | blue | blue | royal blue | blue | royal blue | cobalt
colour:navy             | navy | navy | navy blue | navy | navy blue | midnight blue
colour:purple           | purple | purple | violet | purple | purple | plum
colour:brown            | brown | brown | brown | brown | brown | chocolate
colour:beige            | beige | beige | beige | tan | cream | sand
base:grey               | grey | grey | grey | gray | grey | grey
part:person             | person | person | individual | person | person | person
part:upper              | top | top | upper garment | top | top | top
part:lower              | bottoms | bottoms | lower garment | bottoms | bottoms | bottoms
part:shoes              | shoes | shoes | footwear | shoes | shoes | shoes
part:bag                | bag
verb:wears              | wears | has on | is seen in | wears | has on | sports
verb:wearing            | wearing | wearing | seen in | wearing | wearing | sporting
verb:wore               | wore | had on | was seen in | wore | had on | sported
verb:carries            | carries | has | carries | carries | carries | totes
verb:carrying           | carrying | carrying | carrying | carrying | carrying | toting
verb:carried            | carried | had | carried | carried | carried | toted
place:picture           | picture | pic | image | photo | photo | shot
"""

# Shades described by light and dark alone, where an annotator does not use special names.
TONES = {
    "navy": "dark blue",
    "blue": "bright blue",
    "red": "bright red",
    "light grey": "light grey",
    "dark grey": "dark grey",
    "yellow": "bright yellow",
    "purple": "deep purple",
    "pink": "pale pink",
    "brown": "dark brown",
    "beige": "light brown",
    "orange": "bright orange",
}

# What a garment's pattern and sleeve are called behind it: "a t-shirt with stripes and short sleeves".
BEHIND = {
    "upper_pattern:plain": "no pattern",
    "upper_pattern:striped": "stripes",
    "upper_pattern:checked": "checks",
    "upper_pattern:dotted": "dots",
    "upper_pattern:logo": "a logo",
    "sleeve:sleeveless": "no sleeves",
    "sleeve:short": "short sleeves",
    "sleeve:long": "long sleeves",
}

PLURAL_NOUNS = frozenset(
    {
        "glasses",
        "specs",
        "spectacles",
        "eyeglasses",
        "frames",
        "dark glasses",
        "sunglasses",
        "shades",
        "trousers",
        "pants",
        "slacks",
        "chinos",
        "jeans",
        "denim trousers",
        "denim pants",
        "denims",
        "shorts",
        "bottoms",
        "sneakers",
        "kicks",
        "sports shoes",
        "tennis shoes",
        "trainers",
        "runners",
        "boots",
        "ankle boots",
        "sandals",
        "flip-flops",
        "slides",
        "heels",
        "high-heeled shoes",
        "high heels",
        "court shoes",
        "stilettos",
        "shoes",
    }
)
MASS_NOUNS = frozenset({"hair", "footwear", "headwear"})


def _read_table(text: str) -> dict[str, tuple[str, ...]]:
    rows = {}
    for line in text.strip().splitlines():
        key, *phrases = (cell.strip() for cell in line.split("|"))
        rows[key] = tuple(phrases) + (phrases[0],) * (len(REGISTERS) - len(phrases))
    return rows


ROWS = _read_table(TABLE)


def words_of(register: str) -> dict[str, str]:
    """Return the phrase of every concept ("lower:trousers") in one register ("slacks")."""
    column = REGISTERS.index(register)
    return {key: phrases[column] for key, phrases in ROWS.items()}


def color_words(register: str, granularity: str) -> dict[str, tuple[str, str]]:
    """Return for every shade (the phrase written, the color it conveys).

    granularity: "exact" (the register's name of the shade), "simple" (its plain color), "tones" (light, dark, bright),
    "coloured" ("navy-coloured", "navy-colored").
    """
    column = REGISTERS.index(register)
    suffix = "-colored" if register == "american" else "-coloured"
    said = {}
    for shade in COLORS:
        exact, base = ROWS[f"colour:{shade}"][column], base_color(shade)
        if granularity == "simple":
            said[shade] = (ROWS.get(f"base:{base}", (base,) * len(REGISTERS))[column], base)
        elif granularity == "tones":
            tone = TONES.get(shade, shade)
            said[shade] = (tone.replace("grey", "gray") if register == "american" else tone, shade)
        else:
            said[shade] = (exact + suffix if granularity == "coloured" else exact, shade)
    return said
