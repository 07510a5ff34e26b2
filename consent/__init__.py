"""Consent: what patients have granted, what they have withdrawn, and the root that proofs refer to.

Belongs here: purposes, terms, grants and their openings, the registry of commitments with its
signed epochs, receipts, the FHIR form of a consent. Does not belong here: the proofs themselves
(``zk``), whether a study may run, web pages. Two stores never meet in one file: the registry
knows commitments and nobody's name, a hospital's openings know names and never leave it.
"""
