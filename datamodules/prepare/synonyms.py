"""Nouns that captions use for COCO's 80 classes, beside the class's own name; ours, drawn up by hand.

The mention rule adds regular plurals; irregular ones, and words that are plural already, stand here as they
are. A word may stand under several classes ("bike"). Words that in captions mostly mean something else
("light" as in daylight) are left out.
"""

_LISTS = {
    "person": (
        "people, man, men, woman, women, boy, girl, child, children, kid, baby, toddler, infant, guy, "
        "lady, gentleman, gentlemen, adult, teenager, teen, player, batter, pitcher, catcher, umpire, "
        "skier, snowboarder, surfer, skateboarder, skater, rider, cyclist, bicyclist, biker, "
        "motorcyclist, pedestrian, worker, chef, cook, officer, policeman, policemen, fireman, firemen, "
        "soldier, student, tourist, passenger, driver, crowd, couple, family, friend, bride, groom, "
        "mother, father, mom, dad, son, daughter, brother, sister, husband, wife, businessman, spectator, "
        "someone, somebody, human, tennis player, baseball player, farmer, cowboy, jockey"
    ),
    "bicycle": "bike, cycle, tricycle, mountain bike",
    "car": "automobile, sedan, suv, taxi, cab, vehicle, minivan, convertible, police car",
    "motorcycle": "motorbike, bike, scooter, moped, motor bike, motor cycle, dirt bike",
    "airplane": "plane, aeroplane, aircraft, jet, jetliner, airliner, biplane, jumbo jet, fighter jet",
    "bus": "double decker, double-decker, school bus, minibus, trolley bus, coach",
    "train": "locomotive, subway, tram, railway car, train car, steam engine, trolley",
    "truck": ("lorry, pickup, pick up truck, pickup truck, fire truck, firetruck, semi, tow truck, van, vehicle"),
    "boat": "ship, sailboat, canoe, kayak, ferry, yacht, rowboat, raft, gondola, vessel, motorboat",
    "traffic light": "stoplight, stop light, traffic signal, signal light",
    "fire hydrant": "hydrant, fireplug, fire plug",
    "stop sign": "stopsign",
    "parking meter": "meter",
    "bench": "park bench",
    "bird": (
        "pigeon, seagull, gull, duck, goose, geese, parrot, owl, eagle, swan, crow, flamingo, hawk, "
        "pelican, peacock, ostrich, chicken, rooster, hen, sparrow, penguin, heron, parakeet, cockatoo"
    ),
    "cat": "kitten, kitty, kitty cat, feline, tabby",
    "dog": "puppy, pup, canine, hound, poodle, bulldog, terrier, retriever, labrador, dachshund",
    "horse": "pony, foal, colt, mare, stallion",
    "sheep": "lamb, ram, ewe",
    "cow": "cattle, bull, calf, calves, ox, oxen, heifer",
    "bear": "cub, polar bear, grizzly, grizzly bear, brown bear, black bear, panda, panda bear",
    "giraffe": "girafee",
    "backpack": "knapsack, rucksack, back pack, book bag",
    "umbrella": "parasol, beach umbrella",
    "handbag": "purse, hand bag, bag, tote, tote bag, pocketbook, shoulder bag",
    "tie": "necktie, neck tie, bow tie, bowtie",
    "suitcase": "luggage, baggage, briefcase, suit case",
    "frisbee": "frisby, flying disc, flying disk, disc",
    "skis": "ski, pair of skis",
    "snowboard": "snow board",
    "sports ball": ("ball, baseball, basketball, football, soccer ball, tennis ball, volleyball, beach ball, softball"),
    "kite": "parasail",
    "baseball bat": "bat",
    "baseball glove": "glove, mitt, catcher's mitt, baseball mitt",
    "skateboard": "skate board, longboard",
    "surfboard": "surf board, boogie board, paddle board, paddleboard, body board",
    "tennis racket": "racket, racquet, tennis racquet",
    "bottle": "wine bottle, beer bottle, water bottle, beer",
    "wine glass": "wineglass, glass of wine, glasses of wine, glass, champagne glass, goblet",
    "cup": "mug, glass, coffee cup, cup of coffee, tea cup, teacup, beverage",
    "fork": "silverware, utensil, cutlery",
    "knife": "knives, silverware, utensil, cutlery",
    "spoon": "silverware, utensil, cutlery, ladle",
    "bowl": "soup bowl",
    "sandwich": "burger, hamburger, cheeseburger, panini, grilled cheese, toastie, sandwhich",
    "orange": "tangerine, clementine, mandarin, citrus",
    "broccoli": "brocolli",
    "hot dog": "hotdog, sausage, frankfurter, chili dog, corn dog",
    "pizza": "pizza pie, slice of pizza",
    "donut": "doughnut, pastry, bagel",
    "cake": "cupcake, birthday cake, wedding cake, cheesecake",
    "chair": "seat, stool, armchair, rocking chair, lawn chair, recliner",
    "couch": "sofa, loveseat, love seat, settee",
    "potted plant": "plant, houseplant, house plant, flower pot, pot of flowers",
    "bed": "bunk bed, mattress, bunk",
    "dining table": "table, kitchen table, dinner table, picnic table, desk",
    "toilet": "urinal, commode, toilet bowl",
    "tv": "television, television set, tv set, flat screen, flatscreen, monitor, screen, computer monitor",
    "laptop": "laptop computer, notebook computer, lap top, macbook, computer",
    "mouse": "computer mouse, mice",
    "remote": "remote control, controller, wii remote, game controller, wiimote",
    "keyboard": "computer keyboard",
    "cell phone": "phone, cellphone, mobile phone, smartphone, smart phone, telephone, iphone",
    "microwave": "microwave oven",
    "oven": "stove, stovetop, stove top",
    "toaster": "toaster oven",
    "sink": "washbasin, basin, wash basin",
    "refrigerator": "fridge, freezer, refridgerator",
    "book": "novel, textbook, magazine",
    "clock": "clock tower, alarm clock, grandfather clock",
    "vase": "urn, flower vase",
    "scissors": "pair of scissors, shears, scissor",
    "teddy bear": "teddy, stuffed bear, stuffed animal, teddybear, plush bear",
    "hair drier": "hair dryer, hairdryer, blow dryer, hairdrier",
    "toothbrush": "tooth brush",
}

SYNONYMS: dict[str, tuple[str, ...]] = {name: tuple(nouns.split(", ")) for name, nouns in _LISTS.items()}
