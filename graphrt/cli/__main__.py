"""``python -m graphrt.cli``."""

from graphrt.cli import main

main()
