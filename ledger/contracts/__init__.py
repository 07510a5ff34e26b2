"""The contracts of BTT: Solidity sources, their compiled artifacts, trees of payouts.

Here belongs what runs on a chain and what compiles it. Talking to a node, keys and nonces do not
belong here, nor do the books, of which the contracts are a mirror.
"""
