"""The body: its measures by gender and build, its joints by viewpoint and action.

Front and back views share one skeleton; arm and leg "a" are at +x, "b" at -x. In the side view the person faces +x and "a" is
the near side. The arm that carries an object is "a", the arm that holds a handbag or a suitcase is "b".
"""

from __future__ import annotations

from dataclasses import dataclass

from ham.world.pen import Color, Point

SKIN_TONES: tuple[Color, ...] = (
    (246, 214, 188),
    (234, 192, 156),
    (208, 158, 118),
    (160, 110, 78),
    (112, 76, 56),
)

# Heights, in body units. Head and feet are larger than real ones: they show hair, glasses and shoes.
CHIN, WAIST, HIP, CROTCH, KNEE, ANKLE, GROUND = 18.0, 40.0, 48.0, 52.0, 69.5, 87.0, 94.0
HEAD_Y, HEAD_RX, HEAD_RY = 10.0, 6.4, 8.0

# How much wider than the body each kind of top is.
BULK = {
    "t-shirt": 1.0,
    "shirt": 1.0,
    "blouse": 1.04,
    "sweater": 1.08,
    "hoodie": 1.13,
    "vest": 1.04,
    "jacket": 1.12,
    "coat": 1.16,
    "dress": 1.0,
}

HELD_UP = ("phone", "book", "cup")  # carried in a bent arm; an umbrella hangs from a straight one


@dataclass(frozen=True)
class Body:
    """Half widths in body units; `depth` is the trunk's half width from the side, `belly` how far the front protrudes."""

    shoulder: float
    chest: float
    waist: float
    hip: float
    depth: float
    belly: float
    bust: float
    arm: float
    leg: float
    neck: float


def body_of(gender: str, build: str) -> Body:
    """Return the body's measures: men have wide shoulders and a straight trunk, women narrow shoulders, a waist and hips."""
    narrow, wide = {"slim": (0.84, 0.7), "average": (1.0, 1.0), "heavy": (1.16, 1.42)}[build]
    paunch = {"slim": 0.92, "average": 1.0, "heavy": 1.18}[build]
    if gender == "man":
        return Body(
            9.4 * narrow,
            8.6 * wide,
            7.3 * wide * paunch,
            6.7 * wide,
            5.7 * wide,
            3.4 if build == "heavy" else 0.0,
            0.0,
            2.5 * wide,
            3.7 * wide,
            3.1,
        )
    return Body(
        7.2 * narrow,
        6.6 * wide,
        5.0 * wide * paunch,
        7.7 * wide,
        4.8 * wide,
        2.6 if build == "heavy" else 0.0,
        3.0,
        1.95 * wide,
        3.7 * wide,
        2.3,
    )


@dataclass(frozen=True)
class Limb:
    """Three joints from the trunk outwards: shoulder, elbow, hand or hip, knee, ankle."""

    root: Point
    middle: Point
    end: Point


@dataclass(frozen=True)
class Pose:
    """The joints of one image."""

    view: str
    walking: bool
    arms: dict[str, Limb]
    legs: dict[str, Limb]


def pose_of(body: Body, view: str, action: str, carried: str, holds_bag: bool, bag_arm: str) -> Pose:
    """Return the joints. A hand that holds something up is bent, one that holds a bag hangs straight."""
    walking = action == "walking"
    build = _side_limbs if view == "side" else _front_limbs
    arms, legs = build(body, walking)
    carry_arm = other(bag_arm)
    if carried in HELD_UP:
        arms[carry_arm] = _bent_arm(body, view)
    elif carried == "umbrella":
        arms[carry_arm] = _straight_arm(body, view, carry_arm)
    if holds_bag:
        arms[bag_arm] = _straight_arm(body, view, bag_arm)
    return Pose(view, walking, arms, legs)


def other(side: str) -> str:
    return "b" if side == "a" else "a"


def _mirror(limb: Limb) -> Limb:
    return Limb(*((-x, y) for x, y in (limb.root, limb.middle, limb.end)))


def _straight_arm(body: Body, view: str, side: str) -> Limb:
    if view == "side":
        if side == "b":  # the far hand shows in front of the trunk
            return Limb((0.6, 24.5), (2.0, 35.5), (body.depth + body.belly + 3.4, 44.0))
        return Limb((-0.4, 24.5), (-0.8, 35.5), (0.6, 47.0))
    out = body.shoulder - 0.8
    limb = Limb((out, 24.2), (max(out, body.waist) + 1.6, 35.5), (max(out, body.hip) + 1.6, 47.0))
    return limb if side == "a" else _mirror(limb)


def _bent_arm(body: Body, view: str) -> Limb:
    if view == "side":
        return Limb((-0.4, 24.5), (0.6, 36.0), (body.depth + body.belly + 4.0, 31.0))
    out = body.shoulder - 0.8
    elbow = (max(out, body.waist) + 2.6, 35.5)
    return Limb((out, 24.2), elbow, (elbow[0] - 2.4, 29.5) if view == "front" else (elbow[0] - 2.0, 32.0))


def _front_limbs(body: Body, walking: bool) -> tuple[dict[str, Limb], dict[str, Limb]]:
    out, hip = body.shoulder - 0.8, 0.52 * body.hip
    side = max(out, body.waist)
    if not walking:
        leg = Limb((hip, HIP + 2), (hip, KNEE), (hip, ANKLE))
        return (
            {"a": _straight_arm(body, "front", "a"), "b": _straight_arm(body, "front", "b")},
            {"a": leg, "b": _mirror(leg)},
        )
    arms = {
        "a": Limb((out, 24.2), (side + 3.6, 34.0), (side + 2.2, 42.5)),
        "b": Limb((-out, 24.2), (-side - 3.4, 33.0), (-side - 5.2, 43.0)),
    }
    legs = {
        "a": Limb((hip, HIP + 2), (hip + 2.2, KNEE), (hip + 3.6, ANKLE + 1.0)),
        "b": Limb((-hip, HIP + 2), (-hip - 2.6, KNEE - 3), (-hip - 2.2, ANKLE - 7.5)),
    }
    return arms, legs


def _side_limbs(body: Body, walking: bool) -> tuple[dict[str, Limb], dict[str, Limb]]:
    if not walking:
        near, far = _straight_arm(body, "side", "a"), Limb((0.6, 24.5), (0.6, 35.5), (2.0, 46.5))
        return (
            {"a": near, "b": far},
            {
                "a": Limb((-0.2, HIP + 2), (0.4, KNEE), (-0.6, ANKLE)),
                "b": Limb((0.8, HIP + 2), (1.6, KNEE), (0.9, ANKLE - 0.5)),
            },
        )
    return (
        {
            "a": Limb((-0.4, 24.5), (-5.2, 34.0), (-7.2, 44.5)),
            "b": Limb((0.6, 24.5), (4.4, 34.5), (9.4, 41.5)),
        },
        {
            "a": Limb((0.0, HIP + 2), (5.2, KNEE - 1.5), (7.6, ANKLE - 0.8)),
            "b": Limb((0.0, HIP + 2), (-2.6, KNEE), (-8.8, ANKLE - 3.0)),
        },
    )
