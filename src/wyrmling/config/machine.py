"""`[machine]`: what computes, its power and its price."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wyrmling.config.section import Section


class Machine(Section):
    device: Literal["cpu", "cuda"] | None = None
    """Where to train and serve. None: cuda when there is one."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads. None: the physical cores."""
    workers: int | None = Field(default=None, ge=1)
    """Processes of the data stage. None: as many as threads, 1 for little data."""
    engine: Literal["processes", "ray"] = "processes"
    """What runs them: processes of this machine, or Ray, which also spreads over others (`wyrmling[ray]`)."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Arithmetic of the matrix products. None: bfloat16 where a short probe finds it faster."""
    compile: bool | None = None
    """Compile the model before training (needs a C++ compiler). None: where the run is forecast to take 10 minutes."""
    watts: float | None = Field(default=None, gt=0)
    """Power of the machine under load, in watts, when no meter can be read. None: an estimate from the CPU and GPU."""
    usd_per_hour: float = Field(default=0.0, ge=0)
    """Rent of the machine, in US dollars per hour."""
    usd_per_kwh: float = Field(default=0.15, ge=0)
    """Price of electricity, in US dollars per kWh."""
    country: str | None = Field(default=None, pattern=r"^[A-Z]{3}$")
    """Country (ISO 3166 alpha-3) whose grid feeds the machine. None: the world average."""
    pue: float = Field(default=1.0, ge=1)
    """Power usage effectiveness of the data centre: total power over computer power."""
