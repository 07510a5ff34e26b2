"""The doors: the ``bithive`` command, the demonstration, the report. They assemble the rest.

Belongs here: reading settings and environment, wiring packages together, showing progress and
results. Does not belong here: a rule of consent, privacy, aggregation or money; each lives in the
package whose subject it is, and is called from here.
"""
