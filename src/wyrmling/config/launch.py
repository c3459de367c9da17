"""`[launch]`: training in several processes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wyrmling.config.section import Section


class Launch(Section):
    processes: int | None = Field(default=None, ge=1)
    """Processes on each node of `wyrmling launch`. None: one for each GPU, one without."""
    nodes: int = Field(default=1, ge=1)
    """Nodes that train together; the project folder is on a file system that all of them see."""
    rendezvous: str | None = Field(default=None, pattern=r"^[^:\s]+:\d+$")
    """HOST:PORT of the first node, where the nodes find each other; needed for more than one."""
    strategy: Literal["ddp", "fsdp", "hsdp"] | None = None
    """ddp: every process has the whole model; fsdp: each has a part of every tensor; hsdp: parts within a group of
    processes, and copies of the group. None: the first of ddp, hsdp with a node's processes as the group, and fsdp
    that the memory allows."""
    shards: int | None = Field(default=None, ge=1)
    """Processes in a group of hsdp. None: those of a node."""
    tensor: int = Field(default=1, ge=1)
    """Processes that share each matrix of the blocks (tensor parallel), best on one node; the rest is spread by the
    strategy. For models of our own, without adapters."""
