"""The orders in which empty cells are revealed, one small class each.

Knows schedules and random numbers; no codes, no networks, no windows.
"""

from __future__ import annotations

from smalti.sampling.orders.ancestral import Ancestral
from smalti.sampling.orders.base import Arrangement, Cells, EmptyCells, Order, by_priority
from smalti.sampling.orders.bluenoise import BlueNoise
from smalti.sampling.orders.confidence import Confidence
from smalti.sampling.orders.halton import Halton
from smalti.sampling.orders.random import Random
from smalti.sampling.orders.raster import Raster

ORDERS: dict[str, Order] = {
    "bluenoise": BlueNoise(),
    "halton": Halton(),
    "random": Random(),
    "ancestral": Ancestral(),
    "raster": Raster(),
    "confidence": Confidence(),
}
"""Every order by name, the recommended one first."""

__all__ = [
    "ORDERS",
    "Ancestral",
    "Arrangement",
    "BlueNoise",
    "Cells",
    "Confidence",
    "EmptyCells",
    "Halton",
    "Order",
    "Random",
    "Raster",
    "by_priority",
]
