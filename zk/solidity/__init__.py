"""The on-chain verifier of coverage certificates: template, generator, one generated for tests.

Here belongs what turns a verification key into a contract. Escrow, tokens and whoever calls the
verifier do not.
"""
