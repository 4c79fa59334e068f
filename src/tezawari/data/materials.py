"""Ten materials painted by a seeded generator, and labelled scenes composed of them.

The materials are those of METHODS.md §7 and §9 (the classes of the Flickr Material Database). They are drawn, not
photographed [ours]: meant to be plausible, plainly different from each other, and free of anybody's rights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from tezawari.core.errors import UserError, did_you_mean

_Colour = tuple[float, float, float]
_Painter = Callable[[np.random.Generator, int], np.ndarray]
_SCENE_STREAM = 2
_TEXTURE_STREAM = 3


def material_texture(name: str, seed: int, size: int) -> Tensor:
    """Paint the material ``name`` as (3, size, size) float32 RGB in [0, 1].

    ``seed`` chooses palette and layout; the same seed at another size shows the same kind of surface at another
    resolution. Raises :class:`UserError` for a name that is not one of :data:`MATERIALS`.
    """
    if name not in _PAINTERS:
        raise UserError(f"no material is called {name!r}{did_you_mean(name, MATERIALS)}")
    rng = _generator(_TEXTURE_STREAM, seed, MATERIALS.index(name))
    return _as_tensor(_PAINTERS[name](rng, size))


def material_scene(seed: int, index: int, size: int) -> tuple[Tensor, Tensor]:
    """Compose scene ``index``: an image (3, size, size) float32 in [0, 1] and its mask (size, size) int64.

    Two to four materials fill blob-shaped regions in front of a plain backdrop, shaded as if they bulged under one
    lamp. The mask holds 0 for the backdrop and 1 + the place in :data:`MATERIALS` for a material.
    """
    rng = _generator(_SCENE_STREAM, seed, index)
    image, mask, chosen = _layout(rng, size)
    y, x = _grid(size)
    for material in chosen:
        inside = mask == material + 1
        painted = _PAINTERS[MATERIALS[material]](rng, size) * bulge_shading(inside)[..., None]
        image[inside] = painted[inside]
        # The region's shadow falls on what it lies on.
        shadow = ndimage.gaussian_filter(inside.astype(np.float32), 0.02 * size)
        shadow = ndimage.shift(shadow, (0.02 * size, 0.016 * size), order=1, mode="nearest") * (mask == 0)
        image *= (1 - 0.5 * shadow)[..., None]
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + 0.22 * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)) * 2
    return _as_tensor(image * light[..., None]), torch.from_numpy(mask)


def bulge_shading(inside: np.ndarray) -> np.ndarray:
    """Return what to multiply a region by, (H, W), so that it looks as if it bulged: darker towards its border.

    ``inside`` (H, W) bool. The border is as wide as a tenth of the picture's longer side.
    """
    depth = np.clip(ndimage.distance_transform_edt(inside) / (0.1 * max(inside.shape)), 0, 1)
    return 0.55 + 0.45 * np.sqrt(depth * (2 - depth))


def scene_mask(seed: int, index: int, size: int) -> Tensor:
    """Return the mask of :func:`material_scene`, (size, size) int64, without painting the scene."""
    return torch.from_numpy(_layout(_generator(_SCENE_STREAM, seed, index), size)[1])


def _layout(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a scene's backdrop (H, W, 3), its mask (H, W) int64, and its materials in the order of painting."""
    chosen = rng.choice(len(MATERIALS), size=int(rng.integers(2, 5)), replace=False)
    y, x = _grid(size)
    image = _backdrop(rng, size)
    fields = [0.45 + 0.22 * _noise(rng, size, 3.0, lowest=1.0)]
    for _ in chosen:
        centre_y, centre_x = rng.uniform(0.2, 0.8, 2)
        hill = 1.6 * np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * rng.uniform(0.18, 0.28) ** 2))
        fields.append(hill + 0.22 * _noise(rng, size, 3.0, lowest=1.5))
    values = np.array([0, *(chosen + 1)], np.int64)
    return image, values[np.argmax(fields, axis=0)], chosen


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.clip(image, 0, 1).transpose(2, 0, 1), dtype=np.float32))


def _backdrop(rng: np.random.Generator, size: int) -> np.ndarray:
    base = np.array(_pick(rng, [(0.85, 0.82, 0.78), (0.55, 0.6, 0.66), (0.75, 0.68, 0.6), (0.4, 0.42, 0.45)]))
    tone = 1 + 0.08 * _noise(rng, size, 3.0, lowest=1.0) + 0.015 * rng.standard_normal((size, size))
    return (base * tone[..., None]).astype(np.float32)


# What the painters share. Lengths are fractions of the side, so a texture looks alike at any size.


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.meshgrid(axis, axis, indexing="ij")


def _pick(rng: np.random.Generator, options: Sequence[Sequence[_Colour]] | Sequence[_Colour]) -> np.ndarray:
    return np.array(options[int(rng.integers(len(options)))], np.float32)


def _noise(
    rng: np.random.Generator, size: int, slope: float, lowest: float = 2.0, stretch: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """Return (size, size) noise of zero mean and unit deviation whose amplitude falls as frequency^-slope.

    ``lowest`` is the lowest frequency in cycles a side; ``stretch`` draws it out along y and x.
    """
    fy = np.fft.fftfreq(size, 1 / size)[:, None] * stretch[0]
    fx = np.fft.rfftfreq(size, 1 / size)[None, :] * stretch[1]
    radius = np.hypot(fy, fx)
    amplitude = np.where(radius < lowest, 0.0, np.maximum(radius, 1e-6) ** -slope)
    phase = rng.uniform(0, 2 * np.pi, amplitude.shape)
    field = np.fft.irfft2(amplitude * np.exp(1j * phase), s=(size, size))
    return (field / (field.std() + 1e-12)).astype(np.float32)


def _cells(
    rng: np.random.Generator, y: np.ndarray, x: np.ndarray, across: int, jitter: float = 0.9
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each pixel's cell of a jittered lattice and its distances to the nearest two centres, in cells."""
    axis = np.arange(-1, across + 1) + 0.5
    centres = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    centres += jitter * (rng.random(centres.shape) - 0.5)
    distance, nearest = cKDTree(centres).query(np.stack([y, x], -1).reshape(-1, 2) * across, k=2)
    distance = distance.astype(np.float32).reshape(*y.shape, 2)
    return nearest[:, 0].reshape(y.shape), distance[..., 0], distance[..., 1]


def _normals(height: np.ndarray, steepness: float) -> np.ndarray:
    """Return unit normals (H, W, 3) as x, y, z of a height field; ``steepness`` scales it against the side."""
    slope_y, slope_x = np.gradient(height * steepness * height.shape[0])
    normal = np.stack([-slope_x, -slope_y, np.ones_like(height)], axis=-1)
    return normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def _lit(normal: np.ndarray, light: _Colour = (-0.5, -0.6, 0.65)) -> np.ndarray:
    direction = np.array(light, np.float32) / np.linalg.norm(light)
    return np.clip(normal @ direction, 0, 1)


def _ramp(values: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Map values in [0, 1] to a run of evenly spaced colours."""
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(values, stops, colours[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def _unit(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, (1, 99))
    return np.clip((values - low) / (high - low + 1e-9), 0, 1)


def _smoothstep(low: float, high: float, values: np.ndarray) -> np.ndarray:
    t = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


# The painters: (generator, side in pixels) → (side, side, 3), roughly in [0, 1].


def _fabric(rng: np.random.Generator, size: int) -> np.ndarray:
    """A twill woven of coloured threads into a tartan."""
    palette = _pick(
        rng,
        [
            [(0.72, 0.07, 0.1), (0.06, 0.1, 0.3), (0.95, 0.82, 0.35), (0.05, 0.28, 0.16)],
            [(0.9, 0.45, 0.1), (0.25, 0.1, 0.35), (0.96, 0.9, 0.8), (0.6, 0.08, 0.25)],
            [(0.08, 0.35, 0.5), (0.93, 0.9, 0.82), (0.8, 0.2, 0.2), (0.05, 0.12, 0.25)],
        ],
    )
    y, x = _grid(size)
    threads = 56
    fold_y, fold_x = (0.006 * _noise(rng, size, 2.8, lowest=1.0) for _ in range(2))
    u, v = (x + fold_x) * threads, (y + fold_y) * threads
    stripes = np.repeat(rng.permutation([0, 1, 0, 2, 0, 3, 1, 0]), rng.integers(2, 9, 8))
    warp = palette[stripes[np.floor(u).astype(int) % len(stripes)]]
    weft = palette[stripes[np.floor(v).astype(int) % len(stripes)]]
    over = (np.floor(u) + np.floor(v)) % 4 < 2
    across = np.where(over, np.sin(np.pi * (u % 1)), np.sin(np.pi * (v % 1)))
    along = np.where(over, np.sin(np.pi * ((v + np.floor(u)) % 2) / 2), np.sin(np.pi * ((u + np.floor(v)) % 2) / 2))
    fibre = 1 + 0.1 * np.where(over, _noise(rng, size, 0.3, 8, (0.2, 1.0)), _noise(rng, size, 0.3, 8, (1.0, 0.2)))
    shade = (0.35 + 0.75 * np.abs(across) ** 0.7) * (0.8 + 0.2 * np.abs(along)) * fibre
    drape = 1 + 0.13 * _noise(rng, size, 3.0, lowest=1.0)
    return np.where(over[..., None], warp, weft) * (shade * drape)[..., None]


def _foliage(rng: np.random.Generator, size: int) -> np.ndarray:
    """Leaves upon leaves, the lower ones in the shade."""
    greens = _pick(
        rng,
        [
            [(0.1, 0.3, 0.06), (0.25, 0.5, 0.1), (0.5, 0.68, 0.18)],
            [(0.05, 0.28, 0.16), (0.16, 0.45, 0.22), (0.42, 0.66, 0.3)],
            [(0.3, 0.3, 0.04), (0.5, 0.52, 0.1), (0.75, 0.7, 0.2)],
        ],
    )
    image = np.full((size, size, 3), (0.02, 0.05, 0.02), np.float32)
    leaves = 520
    for number in range(leaves):
        height = number / leaves
        length, angle = size * rng.uniform(0.06, 0.11), rng.uniform(0, 2 * np.pi)
        centre_y, centre_x = rng.uniform(-0.03, 1.03, 2) * size
        rows = slice(max(0, int(centre_y - length)), min(size, int(centre_y + length) + 1))
        columns = slice(max(0, int(centre_x - length)), min(size, int(centre_x + length) + 1))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        y, x = np.mgrid[rows, columns].astype(np.float32)
        u = ((x - centre_x) * np.cos(angle) + (y - centre_y) * np.sin(angle)) / length
        v = ((y - centre_y) * np.cos(angle) - (x - centre_x) * np.sin(angle)) / length
        edge = 0.42 * np.clip(1 - u * u, 0, 1) * (1 - 0.35 * u) - np.abs(v)
        veins = np.abs(np.sin((u - 0.9 * np.abs(v)) * 22))
        shade = (0.3 + 0.7 * height) * (0.85 + 0.25 * np.sign(v) * np.cos(angle) + 0.12 * veins)
        shade = np.where(np.abs(v) < 0.025, shade * 1.35, shade)
        colour = _ramp(np.clip(np.array([rng.normal(0.25 + 0.4 * height, 0.2)]), 0, 1), greens)[0]
        patch = image[rows, columns]
        patch *= np.where((edge > -0.1) & (edge <= 0), 0.6, 1.0)[..., None]  # The shadow around the leaf.
        patch[edge > 0] = (colour * shade[..., None])[edge > 0]
    return image


def _glass(rng: np.random.Generator, size: int) -> np.ndarray:
    """A leaded window of hammered coloured panes, lit from behind."""
    palette = _pick(
        rng,
        [
            [
                (0.75, 0.05, 0.12),
                (0.06, 0.2, 0.75),
                (0.98, 0.75, 0.1),
                (0.05, 0.55, 0.35),
                (0.5, 0.12, 0.6),
                (0.2, 0.7, 0.9),
            ],
            [
                (0.1, 0.45, 0.85),
                (0.1, 0.75, 0.75),
                (0.85, 0.95, 0.98),
                (0.25, 0.25, 0.75),
                (0.6, 0.85, 0.5),
                (0.95, 0.85, 0.4),
            ],
        ],
    )
    y, x = _grid(size)
    pane, nearest, second = _cells(rng, y, x, across=6)
    colour = palette[rng.integers(0, len(palette), pane.max() + 1)][pane]
    normal = _normals(_noise(rng, size, 2.6, lowest=9.0), 0.0045)
    hammered = 0.75 + 0.9 * (_lit(normal, (0.5, 0.4, 0.8)) - 0.72)
    gleam = 0.85 * _smoothstep(0.975, 0.998, _lit(normal, (-0.32, -0.36, 0.85)))
    glow = 1.35 - 0.6 * nearest
    edge = second - nearest
    lead = 1 - _smoothstep(0.07, 0.1, edge)
    metal = np.float32(0.06) + 0.22 * np.exp(-((edge - 0.02) ** 2) / 0.0006)
    lit_pane = colour * (hammered * glow)[..., None] + gleam[..., None] * (0.4 + 0.6 * colour)
    return lit_pane * (1 - lead)[..., None] + (metal * lead)[..., None]


def _leather(rng: np.random.Generator, size: int) -> np.ndarray:
    """Grained hide: small pebbles between dark creases."""
    tones = _pick(
        rng,
        [
            [(0.16, 0.06, 0.03), (0.48, 0.22, 0.1), (0.72, 0.42, 0.24)],
            [(0.14, 0.02, 0.03), (0.42, 0.07, 0.08), (0.66, 0.22, 0.2)],
            [(0.06, 0.05, 0.05), (0.2, 0.17, 0.15), (0.42, 0.37, 0.33)],
        ],
    )
    y, x = _grid(size)
    y, x = y + 0.008 * _noise(rng, size, 1.8, 4.0), x + 0.008 * _noise(rng, size, 1.8, 4.0)
    _, nearest, second = _cells(rng, y, x, across=34)
    pebble = _smoothstep(0.0, 0.55, second - nearest)
    normal = _normals(0.004 * pebble + 0.0012 * _noise(rng, size, 2.2, 3.0), 1.0)
    lit = _lit(normal)
    tone = 0.12 + 0.5 * pebble * lit + 0.3 * (lit - 0.5) + 0.07 * _noise(rng, size, 2.2, 1.0)
    return _ramp(np.clip(tone, 0, 1), tones) + 0.35 * (_lit(normal, (-0.2, -0.35, 0.9)) ** 40 * pebble)[..., None]


def _metal(rng: np.random.Generator, size: int) -> np.ndarray:
    """Tread plate: raised lozenges on brushed sheet."""
    tint = _pick(rng, [(0.72, 0.78, 0.86), (0.86, 0.68, 0.38), (0.82, 0.5, 0.36)])
    y, x = _grid(size)
    across = 9
    u, v = (x + y) * across / np.sqrt(2), (x - y) * across / np.sqrt(2)
    turned = (np.floor(u) + np.floor(v)) % 2 == 0
    a, b = u % 1 - 0.5, v % 1 - 0.5
    long, short = np.where(turned, a, b), np.where(turned, b, a)
    bump = np.clip(1 - (long / 0.46) ** 2 - (short / 0.15) ** 2, 0, 1)
    brushed = _noise(rng, size, 0.5, 6.0, (1.0, 0.03))
    normal = _normals(0.014 * np.sqrt(bump) + 0.00022 * brushed, 1.0)
    sky = _ramp(_unit(normal[..., 1] + 0.25 * normal[..., 0] + 0.12 * _noise(rng, size, 3.0, 1.0)), _STEEL)
    gleam = _lit(normal, (-0.45, -0.5, 0.75)) ** 18
    return sky * tint * (1.15 + 0.07 * brushed)[..., None] + 0.75 * gleam[..., None] * (0.5 + 0.5 * tint)


_STEEL = np.array([(0.95, 0.97, 1.0), (0.68, 0.7, 0.74), (0.52, 0.54, 0.57), (0.26, 0.27, 0.3), (0.6, 0.6, 0.62)])


def _paper(rng: np.random.Generator, size: int) -> np.ndarray:
    """A crumpled sheet: flat facets that meet in sharp creases."""
    tint = _pick(rng, [(0.98, 0.95, 0.88), (0.85, 0.68, 0.48), (0.95, 0.8, 0.82), (0.82, 0.9, 0.95)])
    y, x = _grid(size)
    height = np.zeros((size, size), np.float32)
    for across, depth in ((2, 0.2), (5, 0.06), (13, 0.007)):
        # Squared distances to the nearest centre differ from one common paraboloid by planes, so the difference of
        # two of them is made of flat facets that meet without steps.
        height += depth * (_cells(rng, y, x, across)[1] ** 2 - _cells(rng, y, x, across)[1] ** 2)
    lit = _lit(_normals(height, 1.0))
    grain = 0.012 * _noise(rng, size, 0.2, 20.0)
    return tint * (0.28 + 0.85 * lit + grain)[..., None]


def _plastic(rng: np.random.Generator, size: int) -> np.ndarray:
    """A pit full of glossy balls in bright colours."""
    palette = _pick(
        rng,
        [
            [(0.92, 0.12, 0.12), (0.98, 0.8, 0.05), (0.05, 0.4, 0.9), (0.1, 0.7, 0.25), (0.98, 0.45, 0.05)],
            [(0.95, 0.25, 0.6), (0.3, 0.8, 0.85), (0.98, 0.9, 0.3), (0.6, 0.3, 0.85), (0.95, 0.95, 0.95)],
        ],
    )
    y, x = _grid(size)
    image = np.full((size, size, 3), 0.03, np.float32)
    height = np.full((size, size), -1.0, np.float32)
    for _ in range(620):
        radius = 0.062
        centre_y, centre_x, level = rng.uniform(-0.05, 1.05), rng.uniform(-0.05, 1.05), rng.uniform(0, 0.1)
        rows = slice(max(0, int((centre_y - radius) * size)), int((centre_y + radius) * size) + 1)
        columns = slice(max(0, int((centre_x - radius) * size)), int((centre_x + radius) * size) + 1)
        dy, dx = (y[rows, columns] - centre_y) / radius, (x[rows, columns] - centre_x) / radius
        dome = np.sqrt(np.clip(1 - dy * dy - dx * dx, 0, 1))
        top = np.where(dome > 0, level + radius * dome, -2)
        normal = np.stack([dx, dy, dome], axis=-1)
        colour = palette[int(rng.integers(len(palette)))]
        shaded = colour * ((0.25 + 0.75 * _lit(normal)) * (0.45 + 0.55 * level / 0.1))[..., None]
        shaded = shaded + 0.9 * (_lit(normal, (-0.35, -0.45, 0.82)) ** 60)[..., None]
        front = top > height[rows, columns]
        image[rows, columns][front] = shaded[front]
        height[rows, columns][front] = top[front]
    return image


def _stone(rng: np.random.Generator, size: int) -> np.ndarray:
    """A wall of rough stones in mortar."""
    tones = _pick(
        rng,
        [
            [(0.42, 0.38, 0.34), (0.66, 0.6, 0.52), (0.8, 0.74, 0.64), (0.55, 0.45, 0.36)],
            [(0.3, 0.33, 0.36), (0.5, 0.53, 0.55), (0.66, 0.67, 0.66), (0.42, 0.4, 0.4)],
        ],
    )
    y, x = _grid(size)
    y, x = y + 0.012 * _noise(rng, size, 1.8, 3.0), x + 0.012 * _noise(rng, size, 1.8, 3.0)
    stone, nearest, second = _cells(rng, y * 1.25, x * 0.85, across=7, jitter=0.8)
    edge = second - nearest
    face = _smoothstep(0.04, 0.3, edge)
    colour = tones[rng.integers(0, len(tones), stone.max() + 1)][stone]
    rough = _noise(rng, size, 1.3, 6.0)
    lit = _lit(_normals(0.02 * face + 0.0028 * rough, 1.0))
    speck = 1 - 0.35 * _smoothstep(1.3, 1.9, _noise(rng, size, 0.5, 20.0))
    mortar = np.array((0.34, 0.32, 0.29), np.float32) * (0.75 + 0.5 * lit)[..., None]
    surface = colour * ((0.35 + 0.85 * lit) * speck * (0.95 + 0.07 * rough))[..., None]
    seam = (1 - _smoothstep(0.03, 0.09, edge))[..., None]
    return surface * (1 - seam) + mortar * 0.7 * seam


def _water(rng: np.random.Generator, size: int) -> np.ndarray:
    """Ripples in a pool: bent light on the floor and the sky's glitter above."""
    depths = _pick(
        rng,
        [
            [(0.0, 0.12, 0.3), (0.0, 0.36, 0.55), (0.08, 0.62, 0.72), (0.75, 0.97, 0.95)],
            [(0.01, 0.1, 0.18), (0.02, 0.28, 0.36), (0.15, 0.5, 0.52), (0.8, 0.95, 0.9)],
        ],
    )
    bend = 0.22 * _noise(rng, size, 2.6, 2.0)
    network = np.zeros((size, size), np.float32)
    for lowest in (4.0, 6.0):
        ripple = _noise(rng, size, 3.2, lowest, (1.25, 0.8)) + bend
        network += np.exp(-9 * np.abs(ripple)) + 0.35 * np.exp(-2.5 * np.abs(ripple))
    normal = _normals(_noise(rng, size, 2.4, 5.0, (1.6, 0.7)), 0.0022)
    tone = 0.2 + 0.34 * _unit(network) ** 1.1 + 0.5 * (_lit(normal, (-0.3, -0.6, 0.7)) - 0.65)
    glitter = _smoothstep(0.975, 0.998, _lit(normal, (0.25, -0.62, 0.74)))
    return _ramp(np.clip(tone, 0, 1), depths) + 0.8 * glitter[..., None]


def _wood(rng: np.random.Generator, size: int) -> np.ndarray:
    """Planed planks with the rings of the trunk cut lengthwise."""
    tones = _pick(
        rng,
        [
            [(0.32, 0.15, 0.06), (0.62, 0.36, 0.16), (0.82, 0.57, 0.3), (0.9, 0.7, 0.42)],
            [(0.2, 0.09, 0.05), (0.42, 0.2, 0.1), (0.6, 0.33, 0.17), (0.7, 0.42, 0.24)],
        ],
    )
    y, x = _grid(size)
    planks = 4
    plank = np.minimum((x * planks).astype(int), planks - 1)
    wander = 0.05 * _noise(rng, size, 2.8, 1.0, (2.5, 0.8))
    rings = np.zeros((size, size), np.float32)
    for number in range(planks):
        middle, heart = (number + rng.uniform(0.2, 0.8)) / planks, rng.uniform(0.1, 0.9)
        # The cut runs at a slant through the rings: long arches around where it comes nearest to the heart.
        radius = np.sqrt(((x - middle) * 5 + wander * 5) ** 2 + (rng.uniform(0.35, 0.7) * (y - heart)) ** 2 + 0.02)
        rings = np.where(plank == number, radius * rng.uniform(9, 13), rings)
    late = (rings % 1) ** 2.2
    pores = np.clip(_noise(rng, size, 0.35, 10.0, (0.06, 1.0)), -2, 2)
    tone = (
        0.78 - 0.55 * late + 0.07 * pores + rng.uniform(-0.13, 0.13, planks)[plank] + 0.04 * _noise(rng, size, 2.0, 2.0)
    )
    beside = np.abs((x * planks + 0.5) % 1 - 0.5)
    seam = 1 - 0.8 * (1 - _smoothstep(0.008, 0.022, beside))
    return _ramp(np.clip(tone, 0, 1), tones) * seam[..., None]


_PAINTERS: dict[str, _Painter] = {
    "fabric": _fabric,
    "foliage": _foliage,
    "glass": _glass,
    "leather": _leather,
    "metal": _metal,
    "paper": _paper,
    "plastic": _plastic,
    "stone": _stone,
    "water": _water,
    "wood": _wood,
}
MATERIALS = tuple(_PAINTERS)
