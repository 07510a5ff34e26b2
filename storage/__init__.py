"""Where state lives: one way to open a database durably, and one way to write a file whole.

Belongs here: the durability rules that every party's store relies on (write-ahead log,
``synchronous=FULL``, one writer at a time, private file modes, atomic replacement) and the typed
errors for disks that refuse. Does not belong here: any table, any subject. A table lives in the
``store.py`` (or the one file) of the package whose subject it is.
"""
