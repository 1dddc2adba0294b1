"""The long tail of the annotators' vocabulary: words that say nothing which a picture could contradict.

Each entry of POOLS is a list of words or phrases for one place in a caption, the common ones first. None of them contains a
word that names an attribute (a test reads each of them with the parser), so they never change what a caption conveys.
"""

from __future__ import annotations

# pool -> phrases separated by "," or, where all are single words, by blanks.
_WORDS = {
    "fabric": """
cotton leather silk linen wool velvet corduroy fleece flannel lace nylon satin woolen denim-like mesh cashmere polyester lacy
canvas suede chiffon tweed padded quilted ribbed jersey crochet embroidered sequined pleated stretchy silky fuzzy fluffy furry
spandex lycra rayon viscose acrylic mohair merino angora hemp twill gabardine poplin seersucker chambray muslin organza tulle
taffeta brocade shearling vinyl waxed rubberized crinkled crepe terry waffle microfiber faux-fur glossy matte washed
stonewashed distressed crumpled wrinkled starched ironed pressed crisp faded bleach-stained textured cable-stitch gauzy papery
spongy breathable waterproof insulated reflective metallic shimmering glittery sparkly pearly frosted marbled rumpled creased
felted brushed bonded recycled handwoven hand-sewn""",
    "fit": """
loose tight fitted loose-fitting tight-fitting baggy oversized tailored snug roomy boxy flowy draped billowing form-fitting
close-fitting skintight relaxed slouchy floppy untucked tucked-in unbuttoned buttoned-up zipped-up unzipped open-necked
high-waisted low-slung elasticated drawstring layered wraparound asymmetrical tapered bulky puffy shapeless clingy comfortable
comfy ill-fitting well-fitting bulging sagging shrunken stretched-out hiked-up turned-up rolled-up folded-over wide-cut
narrow-cut boat-necked crew-neck v-neck scoop-neck high-collared round-necked""",
    "style": """
casual formal simple nice plain-looking sporty basic stylish fancy business modern dressy vintage trendy classic old-fashioned
elegant fashionable athletic ordinary everyday retro military nautical preppy bohemian hipster grunge punk gothic rustic
ragged tattered worn neat tidy clean spotless dusty muddy stained expensive cheap designer generic nondescript typical modest
flashy loud gaudy cute pretty lovely funky quirky odd unusual weird cool handsome outdoor work school festive tropical western
sensible practical posh sophisticated sleek snazzy dapper frumpy drab dowdy homely chic edgy boyish girly tomboyish futuristic
minimalist artsy eclectic whimsical playful sober somber conservative flamboyant glamorous luxurious budget secondhand
thrifted adorable airy alluring amusing androgynous angular antique appealing aristocratic artistic athleisure austere
autumnal avant-garde baroque beachy becoming bland blocky bookish bucolic bureaucratic cartoonish celebratory cheery childish
civilian clumsy coastal contemporary convenient corporate courtly cozy crafty creative crude cultured curious customary cutesy
dainty daring decent decorative delicate demure diplomatic disheveled distinctive dramatic dreary dull durable dynamic earthy
eccentric efficient elaborate elfin eminent enchanting energetic ethnic exotic exquisite extravagant eyecatching faddish
familiar fanciful feminine flirty folksy foreign frilly frisky frivolous functional fussy garish genteel girlish glitzy
grandmotherly handy hardy harmless hasty haute heritage hideous hip humble iconic idyllic impeccable imported impressive
improvised inconspicuous indie industrial inexpensive informal innocent innovative intricate inviting jaunty jazzy kitschy
ladylike lavish lively local lowkey lush majestic manly masculine mediocre mellow meticulous mild minimal moody mundane muted
mysterious neutral noble nostalgic obscure offbeat opulent orderly organic ornate outdated outlandish outmoded passable
patriotic peculiar peppy perky picturesque plush poetic polished popular presentable pricey prim pristine prosaic proper
provincial puritan quaint racy raffish refined rebellious respectable restrained ritzy romantic rowdy rugged rural sassy saucy
scanty scenic seasonal seedy sensational serviceable severe showy skimpy sloppy snappy snobby spartan spectacular spiffy
splendid staid stark stately storebought streetwise striking studious sturdy suave suburban subdued sumptuous sunny superb
swanky swish tacky tame tasteful theatrical thrifty timeless touristy traditional tranquil trashy tribal trite trusty
understated unfussy uniform unisex unpretentious upbeat upmarket upscale urban utilitarian vagabond versatile vibrant vivid
voguish wacky weathered weekend wholesome wintry workaday zany zippy new brand-new shabby scruffy grubby immaculate unassuming
conspicuous fetching smart flattering unflattering regal matronly collegiate ceremonial bridal clerical clubby""",
    "brand": """
nike adidas puma reebok levi's gucci fila converse-type vans-type champion-brand lacoste lululemon hilfiger abercrombie
aeropostale hollister zara prada chanel burberry versace armani dior fendi hermes balenciaga moncler patagonia columbia-brand
timberland dickies carhartt wrangler diesel-brand guess-brand kappa umbro asics mizuno brooks-brand jansport herschel eastpak
samsonite northface quiksilver billabong volcom oakley rayban nautica izod dockers esprit benetton ellesse diadora lotto-brand
skechers birkenstock crocs-like hurley jordan-like supreme-like stussy kenzo""",
    "hair": """
straight curly wavy thick messy neat fine shiny silky frizzy tousled spiky combed slicked layered feathered windblown unkempt
wispy stringy limp voluminous permed coarse shaggy scruffy sleek smooth glossy bushy tangled springy unruly choppy
well-groomed wind-swept freshly-washed sweaty damp greasy fluffy bouncy parted gelled flyaway""",
    "age": """
young middle-aged older adult elderly teenage young-looking mature college-aged tall youthful grown attractive handsome
athletic pretty stylish smart serious friendly tired busy relaxed confident cheerful sporty fit well-dressed casual-looking
youngish old twentysomething senior school-aged sophisticated sturdy-looking neat-looking nerdy lanky graceful solitary lone
unsmiling hurried professional-looking weary fashionable scholarly boyish thoughtful pensive brooding absentminded grumpy
jolly stern polite shy timid bold dapper bubbly""",
    "mood": """
casually slowly quickly alone calmly briskly quietly leisurely purposefully carefully confidently nervously cheerfully happily
gracefully lazily patiently hurriedly idly gently proudly shyly stiffly steadily aimlessly absently awkwardly eagerly silently
thoughtfully comfortably solemnly wearily restlessly nonchalantly gingerly rigidly loosely hesitantly impatiently merrily
tiredly sleepily dreamily distractedly elegantly boldly cautiously intently obliviously peacefully solitarily stoically warily
attentively haltingly jauntily languidly sedately serenely sternly sullenly tensely timidly unhurriedly""",
    "very": """
very really quite rather fairly pretty somewhat extremely incredibly remarkably kinda unusually rather noticeably overly""",
    "place_word": """
Texas Boston Brooklyn London Paris Tokyo Berlin Oslo Miami Chicago Havana Hawaii Malibu Vegas Madrid Milan Roma Lisbon Dublin
Sydney Toronto Montreal Denver Austin Dallas Seattle Portland Detroit Cleveland Harlem Bronx Queens California Florida Alaska
Nevada Arizona Brazil Jamaica Cuba Mexico Peru Chile Kenya Egypt Nepal India Canada Norway Sweden Finland Iceland Ireland
Scotland Holland Italia France Spain Korea Osaka Kyoto Beijing Shanghai Seoul Manila Bali Sahara Everest Pacific Atlantic
Arctic Nashville Memphis Orlando Oakland Compton Aspen Utah Idaho Oregon Montana Dakota Yale Oxford Harvard Stanford love
peace dream hope happy smile relax chill surf skate champion legend hero rebel forever always never freedom energy power
future supreme summer winter spring holiday vacation festival tour crew squad staff security volunteer coach captain varsity
athletics university college academy original authentic classic wild free lucky believe create explore wander infinite eternal
spirit vision empire kingdom galaxy fusion thunder storm rockstar superstar princess queen king boss honey sugar Amsterdam
Antwerp Athens Auckland Baltimore Bangkok Barcelona Belfast Bogota Bologna Bombay Bordeaux Bremen Brisbane Bristol Budapest
Buffalo Cairo Calgary Canberra Cardiff Caracas Casablanca Charlotte Cologne Copenhagen Cordoba Dakar Delhi Dubai Dresden
Durban Edinburgh Fresno Geneva Genoa Glasgow Granada Hamburg Hanoi Helsinki Houston Istanbul Jakarta Juneau Karachi Kingston
Lagos Leeds Leipzig Lima Liverpool Lyon Malaga Manchester Marseille Melbourne Milwaukee Minneapolis Monaco Munich Nairobi
Naples Nantes Omaha Orleans Ottawa Palermo Perth Philadelphia Phoenix Pittsburgh Porto Prague Pretoria Quebec Quito Reno Riga
Rotterdam Sacramento Salzburg Santiago Seville Sheffield Singapore Sofia Stockholm Stuttgart Taipei Tampa Tehran Tucson Tulsa
Turin Valencia Vancouver Venice Vienna Warsaw Wichita Winnipeg Zagreb Zurich falcons raptors vikings pirates rangers rockets
hornets wildcats huskies bulldogs broncos mustangs cougars gators badgers wolverines trojans spartans titans giants patriots
yankees dodgers warriors knights lakers celtics bruins sabres senators canucks flyers penguins sharks dolphins ravens
cardinals orioles alpha omega delta sigma gamma zen karma nirvana sunshine stardust moonlight daydream wonderland serenity
harmony courage wisdom destiny gravity velocity momentum horizon odyssey legacy dynasty phoenix apex vertex matrix vortex
turbo nitro mega ultra cosmic atomic electric magnetic sonic lunar solar stellar arcade pixel disco rhythm tempo melody anthem
amour bonjour ciao hola namaste aloha""",
    "print": """
tiger lion panda bear wolf fox eagle owl shark whale dolphin turtle frog snake dragon dinosaur unicorn horse bull cow pig
sheep goat cat kitten dog puppy bulldog poodle rabbit bunny mouse squirrel raccoon monkey gorilla elephant giraffe zebra
leopard cheetah penguin duck swan flamingo parrot rooster butterfly bee ladybug spider crab lobster octopus jellyfish skull
guitar piano drum trumpet microphone rocket spaceship robot alien ufo planet moon sun star comet rainbow cloud lightning
volcano mountain palm cactus daisy sunflower tulip leaf feather mushroom pineapple banana strawberry apple pear burger pizza
donut cupcake taco ramen teapot bicycle motorcycle truck tractor airplane helicopter sailboat anchor compass lighthouse castle
crown shield sword arrow heart diamond skateboard surfboard basketball football golf boxing karate chess dice joker clown
pirate ninja samurai cowboy knight wizard mermaid angel devil ghost zombie vampire mummy snowman snowflake dolphin paw
footprint hand-print fingerprint barcode globe map flag emblem crest badge signature cartoon mascot portrait sunset skyline
wave flame bullseye spiral maze mandala puzzle bubble clock hourglass key lantern candle kite balloon teddy doll puppet mask
violin harp trophy medal rifle grenade wheel engine hammer wrench axe ladder bell bridge windmill pyramid sphinx temple pagoda
totem wreath clover acorn carrot broccoli watermelon lollipop pretzel popcorn noodle sushi egg""",
}
_WORDS |= {
    "role": """
tourist student teacher clerk waiter nurse doctor lawyer banker cashier barber plumber electrician carpenter mechanic driver
pilot sailor soldier officer guard janitor gardener farmer fisherman hunter ranger referee cyclist hiker climber skater surfer
skier swimmer dancer singer drummer guitarist musician painter sculptor photographer journalist editor novelist poet librarian
scientist engineer programmer accountant secretary receptionist manager salesman vendor shopkeeper baker butcher chef
bartender barista courier mailman postman commuter traveler backpacker camper birdwatcher pensioner grandparent uncle aunt
bride bridesmaid groom graduate freshman sophomore intern trainee apprentice consultant broker auctioneer diplomat politician
senator mayor judge priest monk nun rabbi pastor usher butler chauffeur bellhop concierge stewardess dentist surgeon therapist
pharmacist veterinarian florist jeweler tailor seamstress cobbler weaver potter blacksmith welder roofer mason miner logger
rancher cowhand jockey wrestler boxer gymnast archer fencer goalie quarterback pitcher umpire cheerleader magician acrobat
juggler comedian actor actress starlet model celebrity influencer blogger gamer hacker detective spy gangster biker rocker
rapper hippie punk raver nomad pilgrim scout cadet veteran marshal sheriff astronaut archaeologist geologist botanist""",
    "occasion": """
picnic wedding funeral interview gym hike prom opera concert gala banquet barbecue brunch luncheon safari cruise beach disco
nightclub rodeo parade carnival regatta marathon workout yoga pilates tournament match graduation ceremony church meeting
conference seminar lecture exam rehearsal audition recital premiere museum exhibition auction bazaar market errand chores
housework gardening fishing sailing camping hunting skiing sledding bowling cricket rugby croquet badminton karaoke date
anniversary birthday reunion christening baptism pilgrimage protest rally election inauguration trial deposition office
factory warehouse laboratory hospital kindergarten dormitory campus library cafe bistro tavern casino theater cinema ballet
circus zoo aquarium playground resort spa sauna lagoon riviera countryside vineyard orchard ranch barnyard mountaineering
kayaking rafting monsoon blizzard heatwave drizzle downpour breeze autumn springtime midsummer daybreak dusk""",
}
_PHRASES = {
    "upper_detail": """
a collar, a round neck, a zipper, buttons, a v neck, pockets, a round collar, a chest pocket, lace trim, an open collar,
cuffs, ruffles, a crew neck, a turtleneck collar, a mandarin collar, a wide collar, rolled cuffs, brass buttons, snaps,
toggles, epaulettes, a drawstring, piping, frills, a bow, fringe, tassels, sequins, beads, studs, embroidery, elbow patches,
shoulder pads, puffed shoulders, a scoop neck, a plunging neckline, a cowl neck, a boat neck, a halter neck, a keyhole
neckline, darts, pleats, a peplum, a slit, vents, lapels, wide lapels, peaked lapels, a placket, the buttons undone, the
collar up, a curved hem, an uneven hem, a ribbed hem, a frayed hem, drop shoulders, topstitching, velcro, rivets, a gathered
waist, a smocked waist, pintucks, a yoke, contrast stitching, ruching, a racer back, spaghetti straps, rosettes, a lining, a
ruff, mother of pearl buttons, grommets, hooks, a flounce, gussets, crinkles, a pleated front, scalloped edges, a name tag""",
    "lower_detail": """
pockets, cuffs, rolled cuffs, holes, creases, side pockets, ripped knees, frayed hems, pleats, a drawstring, cargo pockets, an
elastic waistband, patches, rips, a turned up hem, zippered pockets, a button fly, a flare, tapered ankles, side seams, a
slit, ruffles, tiers, fringe, stitching, rivets, buckles, a raw edge, ankle zips, suspender loops, bleach marks, whiskering,
knee pads, a high waist, a sash, hanging threads, embroidered pockets, gathers, vents, paint splatters, grass stains""",
    "shoes_detail": """
laces, thick soles, rubber soles, buckles, ankle straps, straps, open toes, pointed toes, a platform, velcro straps, square
toes, tassels, zippers, a wedge, cork soles, chunky soles, gum soles, rounded toes, eyelets, tongues, pom poms, bows, studs,
mesh panels, loose laces, tread, untied laces, metal tips, fringe, air bubbles, a swoosh, spikes, woven uppers, toe caps""",
    "bag_detail": """
straps, a strap, a chain, a zipper, leather handles, buckles, tassels, a flap, side pockets, a keyring, charms, a drawstring,
stickers, badges, pins, padded straps, a bottle pocket, reflective bands, studs, a clasp, fringe, quilting, a monogram, tags,
piping, a water bottle pouch, patches, ribbons, a plush toy, carabiners, grommets, a crest, drawcords""",
    "hair_detail": """
bangs, a side part, layers, a middle part, a fringe, curls, highlights, loose strands, a clip, flyaways, a cowlick, sideburns,
a center part, feathered ends, a barrette, split ends, wisps, hairpins, a forelock, ringlets""",
    "activity": """
looking down, looking ahead, looking to the side, looking around, looking back, smiling, talking, looking up, chatting,
talking to someone, looking away, laughing, swinging the arms, minding the steps, pointing, waving, staring, gazing ahead,
glancing around, with crossed arms, with bent elbows, with hands together, with a tilted head, frowning, yawning, whistling,
humming, daydreaming, squinting, blinking, grinning, peering ahead, stretching, shrugging, gesturing, nodding, listening,
hurrying, lingering, hesitating, whispering, singing, fidgeting, sneezing, leaning slightly, turning slightly, bending a
little, scratching an ear, rubbing an eye, adjusting a cuff, fixing a button, tugging at a hem, checking the time, catching a
breath, clenching a fist, tapping a foot, balancing, pausing, slouching, hunching, shivering, sighing, pouting, smirking,
beaming, scowling, muttering, pondering, reminiscing, dawdling, scurrying, meandering, trudging along, swaying, bouncing,
dodging others, greeting a friend, counting steps, clearing the throat, biting a lip, wincing, gesticulating, eavesdropping,
sniffling, coughing, craning the neck, puffing, murmuring""",
    "remark": """
it is a casual outfit, it is an ordinary outfit, nothing else is clear, the face is not clear, the outfit is simple, the
clothes fit well, the look is sporty, the clothes are clean, the image is blurry, the outfit is formal, it suits the weather,
the colors match, the outfit is fashionable, the pose is relaxed, the posture is upright, the expression is neutral, the look
is businesslike, the lighting is poor, the resolution is low, the mood is cheerful, the background is crowded, the style is
conservative, the ensemble is coordinated, the face is obscured, the impression is youthful, the gait is brisk, the features
are indistinct, the attire is immaculate, the overall vibe is laid-back, the garments are mismatched, the silhouette is
unmistakable, the fabric is wrinkled, the demeanor is calm, the sunlight is harsh, shadows hide the details, the pixels are
grainy, the proportions are distorted, the accessories are minimal, the combination is unusual, everything is in good taste, I
cannot see the face, I like the outfit, we cannot see the face, my guess is a student, the choice is practical, the appearance
is tidy""",
}


def _pools() -> dict[str, tuple[str, ...]]:
    pools = {name: tuple(dict.fromkeys(text.split())) for name, text in _WORDS.items()}
    for name, text in _PHRASES.items():
        phrases = text.replace("\n", " ").split(",")
        pools[name] = tuple(dict.fromkeys(phrase.strip() for phrase in phrases if phrase.strip()))
    return pools


POOLS = _pools()
