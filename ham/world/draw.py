"""One image of one pedestrian: the figure in its place, an occluder, and the camera."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ham.world.accessories import draw_belt, draw_scarf, draw_tie, draw_watch
from ham.world.attributes import SHADES
from ham.world.belongings import draw_bag_behind, draw_bag_in_hand, draw_bag_over, draw_carried
from ham.world.camera import Camera, expose
from ham.world.figure import GROUND, SKIN_TONES, body_of, other, pose_of
from ham.world.head import draw_hair_behind, draw_head, draw_neck
from ham.world.legs import draw_legs
from ham.world.outerwear import draw_hood
from ham.world.pen import Pen, oval_points
from ham.world.place import paint_background, paint_occluder, paint_surroundings
from ham.world.scene import Scene
from ham.world.tops import draw_arm, draw_trunk
from ham.world.wardrobe import Looks

HIGH = 103.0  # body units from the top to the bottom of an image of a whole person at scale 1
HEADROOM = 6.0


def draw_person(
    person: dict[str, str],
    looks: Looks,
    scene: Scene,
    camera: Camera,
    size_px: tuple[int, int],
    rng: np.random.Generator,
) -> Image.Image:
    """Draw one image. size_px: (height, width) of the result. Returns an RGB image."""
    height, width = size_px
    factor = 3 if height <= 200 else 2
    canvas = paint_background((height * factor, width * factor), camera, rng)
    scale = canvas.height / (scene.bottom + scene.headroom)
    origin = (canvas.width / 2 + scene.shift * scale, scene.headroom * scale)
    paint_surroundings(canvas, scale, origin, scene.surroundings, rng)
    pen = Pen(canvas, scale, origin, scene.mirrored)
    draw_figure(pen, person, looks, scene)
    paint_occluder(canvas, scale, origin, scene.occluder, scene.occluder_at, rng)
    return expose(canvas.reduce(factor), camera, rng)


def draw_figure(pen: Pen, person: dict[str, str], looks: Looks, scene: Scene) -> None:
    """Draw the person from the farthest part to the nearest."""
    view, skin = scene.view, SKIN_TONES[looks.skin]
    body = body_of(person["gender"], person["build"])
    bag_arm = bag_arm_of(scene)
    holds_bag = person["bag"] in ("handbag", "suitcase")
    pose = pose_of(body, view, scene.action, person["carried"], holds_bag, bag_arm)
    carry_arm = other(bag_arm)

    def arm(side: str, behind: bool = False) -> None:
        if side == bag_arm and holds_bag:
            draw_bag_in_hand(pen, person, pose.arms[side], pose)
        draw_arm(pen, person, body, pose.arms[side], skin, behind)
        if side == "a":
            draw_watch(pen, person, body, pose.arms[side])
        if side == carry_arm and (view != "back" or person["carried"] == "umbrella"):
            draw_carried(pen, person["carried"], pose.arms[side])

    pen.shadow(oval_points(0, GROUND + 0.5, 12, 2.2), (0, 0, 0, 70))
    if view == "side":
        arm("b", behind=True)
    draw_bag_behind(pen, person, body, view)
    draw_hair_behind(pen, person, view)
    draw_legs(pen, person, body, pose, skin)
    if view == "back":
        arm("b")
        arm("a")
    draw_neck(pen, body, view, skin)
    draw_trunk(pen, person, body, view, skin)
    draw_tie(pen, person, view)
    draw_belt(pen, person, body, view)
    draw_bag_over(pen, person, body, view, scene.bag_near)
    if view == "front":
        arm("b")
        arm("a")
    draw_head(pen, person, body, view, skin, looks.beard)
    if person["upper"] == "hoodie":
        draw_hood(pen, SHADES[person["upper_colour"]][1], view)
    draw_scarf(pen, person, view)
    if view == "side":
        arm("a")


def bag_arm_of(scene: Scene) -> str:
    return "a" if scene.view == "side" and scene.bag_near else "b"
