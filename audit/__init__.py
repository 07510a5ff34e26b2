"""The audit log: what was done, in order, in a tree whose heads hospitals cosign.

Belongs here: what may stand in a record, the RFC 6962 log and its storage, signed heads in the form
of C2SP checkpoints, witnesses and their cosignatures, and the verification of all of it offline.
Does not belong here: what is worth logging (each package says it where it acts), the hashing of
trees (``storage.merkle``), web pages, and any fact about one patient.
"""
