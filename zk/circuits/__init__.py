"""Circuit sources, their build script and its committed output.

Belongs here: circom sources, the npm lock that pins their compiler, ``build.py`` and ``build/``.
Does not belong here: anything a prover or verifier runs; those read ``build/`` through
``zk.circuit``. Licences of the compiled files are in ``NOTICE``.
"""
