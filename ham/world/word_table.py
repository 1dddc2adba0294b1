"""The table of synonyms that annotators write and the parser reads.

A row is "field:value | plain | casual | formal | american | british | fashion"; a row of one column is the same in all
registers. Lines that begin with "+" hold rarer words for the row above. Every phrase names exactly one value, or, for a word
that hair and clothes share ("silver", "short"), one value for each of the two.
"""

from __future__ import annotations

TABLE = """
gender:man              | man | guy | gentleman | man | bloke | male
    + fellow, boy, dude, chap, lad
gender:woman            | woman | girl | lady | woman | lass | female
    + gal
build:slim              | slim | skinny | slender | thin | slim | lean
    + petite, slightly built, lithe, bony, svelte
build:average           | average-sized | normal-sized | medium-built | average-sized | medium-sized | regular-sized
build:heavy             | heavy | chubby | stout | heavyset | stocky | broad
    + overweight, husky, burly, plump, fat, portly, hefty
hair_length:bald        | bald | bald | bald | bald | bald | shaved
    + balding, hairless, shaven
hair_length:short       | short | short | short | short | short | cropped
    + close-cropped, short-cut
hair_length:shoulder    | shoulder-length | medium-length | shoulder-length | mid-length | medium-length | shoulder-length
    + chin-length
hair_length:long        | long | long | long | long | long | flowing
    + waist-length
hair_length:ponytail    | ponytail | ponytail | tied-back | ponytail | tied-back | ponytail
    + pulled-back, pony tail, high ponytail
hair_colour:black       | black | black | black | black | black | jet-black
    + raven, inky
hair_colour:brown       | brown | brown | brown | brown | chestnut | brunette
    + mousy, hazel
hair_colour:blond       | blond | blonde | blond | blonde | fair | golden
    + bleached, flaxen, honey-blond
hair_colour:red         | red | ginger | auburn | red | ginger | auburn
    + reddish, coppery
hair_colour:grey        | grey | gray | grey | gray | grey | silver
    + graying, salt-and-pepper, whitish
headwear:cap            | cap | cap | peaked cap | baseball cap | cap | baseball cap
    + baseball hat, ball cap, trucker cap, snapback
headwear:hat            | hat | hat | brimmed hat | hat | sun hat | fedora
    + bucket hat, straw hat, panama hat, bowler hat, cowboy hat, trilby
headwear:beanie         | beanie | beanie | knitted hat | beanie | woolly hat | knit cap
    + stocking cap, skullcap, wool hat, bobble hat
glasses:glasses         | glasses | glasses | spectacles | glasses | specs | eyeglasses
    + eye glasses, reading glasses, spectacles
glasses:sunglasses      | sunglasses | sunglasses | dark glasses | sunglasses | sunglasses | shades
    + sun glasses, tinted glasses, aviators
neckwear:scarf          | scarf | scarf | scarf | scarf | scarf | scarf
    + neckerchief, muffler, pashmina, shawl
neckwear:tie            | tie | tie | necktie | tie | tie | necktie
    + cravat, neck tie
upper:t-shirt           | t-shirt | tee | t-shirt | t-shirt | t-shirt | tee shirt
    + tshirt, t shirt, sports shirt, jersey top
upper:shirt             | shirt | shirt | collared shirt | shirt | shirt | button-down
    + dress shirt, button up shirt, polo shirt, polo, oxford shirt, henley, button-up, work shirt
upper:blouse            | blouse
    + tunic, smock, peasant top, shell top, chemise
upper:sweater           | sweater | sweater | pullover | sweater | jumper | knit top
    + cardigan, sweatshirt, turtleneck, knit sweater, cable-knit, sweat shirt
upper:hoodie            | hoodie | hoodie | hooded sweatshirt | hoodie | hooded top | hoodie
    + hoody, hooded sweater, hooded pullover
upper:vest              | vest | vest | vest | vest | waistcoat | gilet
    + puffer vest, bodywarmer, sweater vest, suit vest
upper:jacket            | jacket | jacket | jacket | jacket | jacket | blazer
    + windbreaker, suit jacket, bomber, sport jacket, track jacket, anorak, jean jacket
upper:coat              | coat | coat | overcoat | coat | overcoat | trench coat
    + parka, raincoat, peacoat, topcoat, greatcoat, rain coat, duster
upper:dress             | dress | dress | dress | dress | dress | gown
    + sundress, frock, one-piece dress, shift dress, sun dress, wrap dress, pinafore
upper_pattern:plain     | plain | plain | unpatterned | solid | plain | solid
upper_pattern:striped   | striped | striped | striped | striped | stripy | pinstriped
    + vertically striped, horizontally striped, stripey
upper_pattern:checked   | plaid | checkered | chequered | plaid | checked | plaid
    + checkerboard, gingham, tartan, houndstooth, grid-patterned
upper_pattern:dotted    | dotted | polka dot | dotted | polka dot | spotted | polka-dot
    + speckled, polka dotted, dotty
upper_pattern:logo      | printed | printed | printed | graphic | branded | graphic
    + logo, slogan, screen-printed
upper_pattern:color-block | two-tone | two-tone | two-toned | color-block | two-tone | color-block
    + two-colored, color-blocked, colorblock
sleeve:sleeveless       | sleeveless
sleeve:short            | short-sleeved | short sleeve | short-sleeved | short sleeve | short-sleeved | short-sleeved
    + half-sleeve
sleeve:long             | long-sleeved | long sleeve | long-sleeved | long sleeve | long-sleeved | long-sleeved
    + full-sleeved
watch:watch             | watch | watch | wristwatch | watch | watch | timepiece
    + wrist watch
belt:belt               | belt
    + waist belt
lower:trousers          | pants | pants | trousers | pants | trousers | slacks
    + slacks, cargo pants, dress pants, sweatpants, chinos, capris, capri pants, joggers, track pants, corduroys, suit pants
    + culottes, trouser
lower:jeans             | jeans | jeans | denim trousers | jeans | jeans | denims
    + jean pants, denim pants, skinny jeans, dungarees
lower:leggings          | leggings | leggings | leggings | leggings | leggings | tights
    + tights, jeggings, yoga pants, stretch pants
lower:shorts            | shorts
    + cargo shorts, jean shorts, denim shorts, bermudas, gym shorts, board shorts, hot pants, bermuda shorts
lower:skirt             | skirt
    + pencil skirt, a-line skirt, kilt, sarong, skort
lower_length:short      | short | short | above-knee | short | short | mini
    + thigh-length, micro
lower_length:knee       | knee-length | knee-length | knee-length | knee length | knee-length | midi
    + calf-length, below-knee
lower_length:long       | long | long | full-length | long | long | full-length
    + ankle-length, maxi, floor-length
socks:socks             | socks | socks | socks | socks | socks | socks
    + ankle socks, crew socks, stockings, sox, tube socks
shoes:sneakers          | sneakers | sneakers | sports shoes | tennis shoes | trainers | runners
    + athletic shoes, gym shoes, running shoes, high-tops, canvas shoes, plimsolls, skate shoes, high tops
shoes:boots             | boots | boots | boots | boots | boots | ankle boots
    + cowboy boots, combat boots, hiking boots, work boots, rain boots, booties, wellingtons
shoes:sandals           | sandals | flip flops | sandals | sandals | sandals | slides
    + flip-flops, slippers, thongs, clogs, espadrilles, gladiators, flipflops, strappy sandals
shoes:heels             | heels | heels | high-heeled shoes | high heels | court shoes | stilettos
    + pumps, wedges, kitten heels, slingbacks, heeled shoes, platform heels
bag:backpack            | backpack | backpack | knapsack | backpack | rucksack | backpack
    + back pack, book bag, school bag, daypack, bookbag
bag:handbag             | handbag | purse | handbag | purse | handbag | clutch
    + hand bag, tote bag, tote, shopping bag, pocketbook, clutch bag, evening bag
bag:shoulder bag        | shoulder bag | shoulder bag | shoulder bag | messenger bag | satchel | crossbody bag
    + cross body bag, sling bag, side bag, over the shoulder bag, courier bag
bag:suitcase            | suitcase | suitcase | travel case | suitcase | suitcase | trolley case
    + luggage, rolling suitcase, roller bag, rolling bag, travel bag
carried:phone           | phone | phone | mobile phone | cell phone | mobile | smartphone
    + cellphone, iphone, handset
carried:umbrella        | umbrella | umbrella | umbrella | umbrella | brolly | parasol
carried:book            | book | book | book | book | book | magazine
    + notebook, textbook, novel, paperback
carried:cup             | cup | cup | paper cup | coffee cup | takeaway cup | drink
    + coffee, beverage, mug, tumbler, to-go cup
view:front | facing the camera | facing forward | facing the camera | facing the camera | facing us | facing the lens
    + seen from the front, facing the viewer
view:back               | facing away | facing away | seen from behind | facing away | seen from the back | facing away
    + viewed from behind, with the back turned
view:side               | seen from the side | in profile | in profile | seen from the side | side-on | in profile
    + turned sideways, viewed from the side
action:walking          | walking | walking | walking | walking | strolling | striding
    + ambling, sauntering, pacing, marching, walking along
action:standing         | standing | standing | standing still | standing | standing | posing
    + standing around, waiting, stationary, loitering
scene:street            | on the street | on the road | on the street | on the sidewalk | on the pavement | in the street
    + on the asphalt, by the curb, beside the road, in an alley, on the tarmac, roadside
scene:grass             | on the grass | on the grass | on the lawn | on the grass | on the lawn | on the grass
    + in a meadow, on the turf, in a field, in a park, in a garden
scene:stairs            | on the stairs | by the steps | on the staircase | on the stairs | on the steps | near the stairs
    + on a stairway, by a flight of stairs, near some steps
scene:wall              | by the wall | near a wall | in front of a wall | by a wall | by the wall | against a wall
    + beside a brick wall, near a building, along the wall, next to a building
scene:crosswalk | on the crosswalk | at the crosswalk | at the crosswalk | on the crosswalk | at the zebra | at the crossing
    + on the zebra crossing, across the street, at the intersection, crossing the street, at the pedestrian crossing
colour:black            | black
    + ebony, jet, onyx, pitch-black, coal
colour:white            | white | white | white | white | white | ivory
    + off-white, snow-white, snowy, cream-white, pearl
colour:light grey       | light grey | light gray | light grey | light gray | pale grey | silver
    + ash, silvery, ash-grey, smoke
colour:dark grey        | dark grey | dark gray | dark grey | dark gray | dark grey | charcoal
    + slate, graphite, steel, gunmetal, anthracite
colour:red              | red | red | red | red | red | crimson
    + bright red, scarlet, ruby, cherry, vermilion, fire-red, poppy
colour:dark red         | dark red | maroon | dark red | maroon | maroon | burgundy
    + wine, deep red, oxblood, claret, brick-red, garnet
colour:pink             | pink | pink | pink | pink | pink | rose
    + salmon, coral, blush, hot pink, light pink, fuchsia, bubblegum
colour:orange           | orange
    + tangerine, rust, apricot, bright orange, pumpkin, rusty
colour:yellow           | yellow | yellow | yellow | yellow | yellow | mustard
    + gold, lemon, canary, bright yellow, amber, maize, saffron
colour:light green      | light green | light green | light green | lime | pale green | mint
    + lime green, pistachio, apple-green, neon green, mint green, avocado
colour:dark green       | dark green | green | dark green | dark green | bottle green | olive
    + forest green, olive green, emerald, hunter green, army green, khaki-green, moss
colour:light blue       | light blue | light blue | light blue | light blue | pale blue | sky blue
    + baby blue, powder blue, turquoise, aqua, teal, cyan, icy
colour:blue             | blue | blue | blue | blue | royal blue | cobalt
    + royal blue, bright blue, sapphire, azure, cerulean, electric blue
colour:navy             | navy | dark blue | dark blue | navy blue | navy | midnight blue
    + indigo, navy blue, inky-blue, midnight
colour:purple           | purple | purple | purple | purple | purple | plum
    + violet, lavender, lilac, magenta, mauve, eggplant, dark purple
colour:brown            | brown | brown | brown | brown | brown | chocolate
    + dark brown, mocha, russet, chestnut-brown, cocoa, bronze
colour:beige            | beige | tan | beige | tan | cream | sand
    + khaki, tan, camel, ecru, taupe, light brown, fawn, nude, biscuit
base:grey               | grey | gray | grey | gray | grey | grey
    + greyish, grayish
base:blue               | blue
    + bluish
base:green              | green
    + greenish
base:red                | red
    + reddish
part:person             | person | person | individual | person | person | person
    + pedestrian, adult, subject, figure, passerby
part:upper              | top | top | upper garment | top | top | top
part:lower              | bottoms | bottoms | lower garment | bottoms | bottoms | bottoms
part:shoes              | shoes | shoes | footwear | shoes | shoes | shoes
part:bag                | bag
part:inner              | shirt | shirt | shirt | undershirt | top | top
verb:wears              | wears | wears | wears | wears | wears | sports
verb:wearing            | wearing | wearing | wearing | wearing | wearing | sporting
verb:carries            | carries | carries | carries | carries | carries | totes
verb:carrying           | carrying | carrying | carrying | carrying | carrying | toting
verb:holds              | holds | has | holds | holds | holds | clutches
verb:holding            | holding | holding | holding | holding | holding | clutching
"""
