"""`python -m wyrmling` is `wyrmling`."""

from wyrmling.cli import main

main()
