"""``python -m portal`` is the ``bithive`` command."""

from portal.cli import main

main()
