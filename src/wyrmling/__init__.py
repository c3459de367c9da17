"""wyrmling: from a team's documents to its own language model behind an API."""

__version__ = "0.1.0"
