"""Words of real captions that no simulated annotator uses, for the attribute parser."""

from __future__ import annotations

# "field:value = phrases"; "pattern" and "print" are nouns for what is on a top: "with black strips", "with white writing".
_TABLE = """
upper:t-shirt = t shirts, t-shirts, tee-shirt, tees, tank top, tank, muscle shirt, camisole
upper:shirt = polo shirts, shirts, jean shirt, denim shirt, button up, button down shirt
upper:blouse = blouses
upper:sweater = sweaters, sweat-shirt
upper:hoodie = hooded sweat shirt, hooded jacket, hoodies
upper:jacket = denim jacket, dress jacket, suit coat, sport coat, sports jacket, jackets
upper:coat = coats
upper:dress = dresses, mini dress, maxi dress, tunic dress, shirt dress, sweater dress, dress gown, t-shirt dress
upper:vest = vests
sleeve:short = short sleeved, short-sleeves
sleeve:long = long sleeved, long-sleeves
upper_pattern:checked = checker, checkered pattern, checker pattern, grid
upper_pattern:striped = stripped
pattern:striped = strips
pattern:checked = plaid pattern
print:logo = writing, lettering, letters, logo, logos, insignia, graphics
neckwear:tie = bow tie, ties, bowtie
neckwear:scarf = scarves
lower:trousers = trousers, dress pant, pant, khakis, sweat pants, capri, sweats, track pant
lower:jeans = jean pant, jean capris
lower:shorts = denim short, jean short, capri shorts, dress shorts, jeans shorts
lower:skirt = mini skirt, miniskirt, jean skirt, denim skirt, skirts
lower:leggings = legging
shoes:sandals = flip-flop, flip flop, flipflop, flip flopped shoes, sandal, slipper
shoes:sneakers = sneaker, tennis shoe, gym shoe, running shoe, sport shoes, athletic shoe
shoes:boots = boot, bootie
shoes:heels = high-heels, high heel shoes, heel, high heeled shoes, pump, wedge shoes, stiletto
socks:socks = sock, knee socks, knee high socks
bag:backpack = backpacks, schoolbag, bag pack, bagpack, back-pack
bag:handbag = shopping bags, plastic bag, paper bag, purses, hand purse
bag:shoulder bag = cross-body bag, shoulder purse, crossbody purse
bag:suitcase = suitcases
carried:phone = smart phone, cell-phone, phones
carried:umbrella = umbrellas
carried:book = books
gender:man = men, males, boys, guys
gender:woman = women, females, girls, ladies
view:back = away from the camera, from behind, from the back, with his back to the camera, with her back to the camera
view:front = towards the camera, toward the camera
"""


def _read(text: str) -> dict[str, tuple[str, ...]]:
    rows = {}
    for line in text.strip().splitlines():
        key, _, phrases = line.partition(" = ")
        rows[key] = tuple(phrase.strip() for phrase in phrases.split(","))
    return rows


SYNONYMS = _read(_TABLE)
UNKNOWN_THINGS = (
    "tie dye",
    "tie dyed",
    "tie died",
    "dress code",
    "top knot",
)  # they contain a word of the lexicon

# Words that lie one letter from a word of the lexicon and mean something else.
_REAL_WORDS = """
banding booths dressed bottle bottles bottom braided cheeks crutch field fields glassed grassy healed hiding hooked lights
logging lower lowers marching matching muscled paint painted paints paper papers partly patter pattern patterns plants scandal
shaped shapes shifty skate skates slotted speaker sticking stopping stranding strides striping strong sweeter thing things
whiter wrist wrists writing"""
REAL_WORDS = frozenset(_REAL_WORDS.split())
