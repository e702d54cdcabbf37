"""Lets `python -m countermand.cli` stand for `countermand`."""

from countermand.cli.main import main

main(prog_name="countermand")
