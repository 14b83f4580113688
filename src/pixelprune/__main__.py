"""`python -m pixelprune`."""

from pixelprune.cli import main

main()
