"""The books' way onto a chain: a node, a key, what is deployed, and settling exactly once.

Here belongs what turns transfers of the journal into transactions of an Ethereum chain and compares
the two. What the contracts do belongs to ``ledger.contracts``; whom to pay does not belong here.
Nothing of this is imported by the books, which work without a chain.
"""
