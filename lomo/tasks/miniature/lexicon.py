"""The words of the small world: eight kinds of things, and words that name two kinds.

Every list here was written for this project. A word is of one kind alone, but for `TWO_SENSES`; the
tasks rest on that, and a test checks it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of thing: its name, the nouns that name such a thing, what it does and where it is."""

    name: str
    plural: str
    nouns: tuple[str, ...]
    actions: tuple[tuple[str, str], ...]  # (past, base form)
    places: tuple[str, ...]


def _actions(words: str) -> tuple[tuple[str, str], ...]:
    """The (past, base) pairs of a line such as "swam/swim splashed/splash"."""
    pairs = (pair.split("/") for pair in words.split())
    return tuple((past, base) for past, base in pairs)


BIRD = Kind(
    "bird",
    "birds",
    tuple("heron robin owl sparrow finch hawk eagle raven crow dove".split()),
    _actions("pecked/peck nested/nest chirped/chirp soared/soar preened/preen hatched/hatch"),
    ("in the treetop", "on the branch", "in the aviary", "over the chimney", "under the eaves"),
)
FISH = Kind(
    "fish",
    "fishes",
    tuple("trout salmon herring carp cod tuna eel shark mackerel sardine".split()),
    _actions("swam/swim spawned/spawn dived/dive gulped/gulp splashed/splash darted/dart"),
    ("in the river", "near the reef", "in the pond", "off the coast", "below the waterfall"),
)
VEHICLE = Kind(
    "vehicle",
    "vehicles",
    tuple("truck wagon tram van bus taxi lorry tractor scooter car".split()),
    _actions("honked/honk braked/brake parked/park skidded/skid stalled/stall swerved/swerve"),
    ("on the road", "in the garage", "at the crossing", "at the kerb", "in the tunnel"),
)
INSTRUMENT = Kind(
    "instrument",
    "instruments",
    tuple("flute harp violin piano guitar trumpet cello banjo oboe clarinet".split()),
    _actions("chimed/chime hummed/hum jingled/jingle boomed/boom droned/drone tinkled/tinkle"),
    ("on the stage", "in the concert", "in the orchestra", "at the dance", "on the bandstand"),
)
PLANT = Kind(
    "plant",
    "plants",
    tuple("rose tulip oak elm daisy lily ivy fern willow poppy".split()),
    _actions("bloomed/bloom sprouted/sprout withered/wither budded/bud ripened/ripen wilted/wilt"),
    ("in the garden", "on the meadow", "in the greenhouse", "under the hedge", "in the flowerbed"),
)
FOOD = Kind(
    "dish",
    "dishes",
    tuple("soup stew pie quiche pudding pancake omelette salad curry lasagne".split()),
    _actions(
        "simmered/simmer cooled/cool steamed/steam sizzled/sizzle thickened/thicken baked/bake"
    ),
    ("in the oven", "on the plate", "in the kitchen", "in the pan", "at the dinner"),
)
GARMENT = Kind(
    "garment",
    "garments",
    tuple("shirt coat scarf jacket sweater skirt vest glove sock hat".split()),
    _actions("shrank/shrink frayed/fray wrinkled/wrinkle faded/fade creased/crease tore/tear"),
    ("in the wardrobe", "on the hanger", "in the drawer", "at the tailor", "in the laundry"),
)
TOOL = Kind(
    "tool",
    "tools",
    tuple("hammer chisel drill spanner wrench shovel spade axe rake plough".split()),
    _actions("scraped/scrape clamped/clamp carved/carve chipped/chip rusted/rust gouged/gouge"),
    ("in the workshop", "in the toolbox", "on the workbench", "in the shed", "at the forge"),
)

KINDS: tuple[Kind, ...] = (BIRD, FISH, VEHICLE, INSTRUMENT, PLANT, FOOD, GARMENT, TOOL)

# What is true of some kinds. The tasks ask for these concepts; the pretraining text never says of
# which kinds they are true.
ALIVE = (BIRD, FISH, PLANT)
MOVING = (BIRD, FISH, VEHICLE)
HOUSEHOLD = (INSTRUMENT, FOOD, GARMENT, TOOL)

# Words with a sense that is alive and a sense that is not, in this order.
TWO_SENSES: dict[str, tuple[Kind, Kind]] = {
    "crane": (BIRD, VEHICLE),
    "swift": (BIRD, VEHICLE),
    "kite": (BIRD, VEHICLE),
    "turkey": (BIRD, FOOD),
    "chicken": (BIRD, FOOD),
    "duck": (BIRD, FOOD),
    "roller": (BIRD, TOOL),
    "ruff": (BIRD, GARMENT),
    "bass": (FISH, INSTRUMENT),
    "drum": (FISH, INSTRUMENT),
    "char": (FISH, FOOD),
    "pike": (FISH, TOOL),
    "jack": (FISH, TOOL),
    "needle": (FISH, TOOL),
    "lance": (FISH, TOOL),
    "sole": (FISH, GARMENT),
    "skate": (FISH, GARMENT),
    "rocket": (PLANT, VEHICLE),
    "bugle": (PLANT, INSTRUMENT),
    "viola": (PLANT, INSTRUMENT),
    "mint": (PLANT, FOOD),
    "stock": (PLANT, FOOD),
    "slip": (PLANT, GARMENT),
    "flax": (PLANT, GARMENT),
}

PEOPLE: tuple[str, ...] = ("Ann", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry")
DAYS: tuple[str, ...] = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
# What a person does with a thing of any kind: it says nothing of the kind.
DEEDS: tuple[str, ...] = ("met", "drew", "painted", "noticed", "remembered", "described", "watched")
