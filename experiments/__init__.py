"""One script per question, with its result beside it; imported by nothing.

Belongs here: measurements and comparisons that answer one question each, whose docstring says what
was expected before it was run. Does not belong here: anything another package would import, and
bounds that a test should hold.
"""
