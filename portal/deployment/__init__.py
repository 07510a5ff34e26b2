"""A deployment: the processes of a federation on real machines, from ``bithive up`` to the doctor.

Here belong which processes run, in which order and behind which front door; the supervisor that
keeps them running; how keys reach the sites of one machine; and the checks of the doctor. What a
process does once it runs belongs to its own package, and a command's words to ``cli``.
"""
