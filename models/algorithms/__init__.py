"""How sites' updates become one model, and what stays at a site: seven algorithms, one interface.

Here belong the site's half and the server's half of each algorithm, as arithmetic on vectors.
Clipping, noise, encryption, messages and files do not: an algorithm cannot tell a noised update
from another, and never sees more than one.
"""
