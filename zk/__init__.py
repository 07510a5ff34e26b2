"""Zero-knowledge proofs: statements, circuits, Merkle trees, provers, verifiers.

Belongs here: what a proof claims, the circuit that says it in constraints, the keys, and two
verifiers that must agree. It speaks of subjects, sites, studies, datasets and slots. Does not
belong here: who those are, which roots are current, what a verified proof entitles to. A gate
that knows all this (consent, fl_server) calls the verifiers and decides.
"""
