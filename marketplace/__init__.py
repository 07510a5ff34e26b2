"""The market: what a study pays, to whom, for what was contributed and proven.

Belongs here: study terms and their funding, valuation of contributions, settlement of closed
rounds. Does not belong here: balances and their rules (``ledger``), or how a round is run: the
market learns of it from ``RoundClosed`` and believes only signatures.
"""
