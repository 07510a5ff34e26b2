"""The books: who holds how much BTT, and what is held in escrow.

Belongs here: the supply and its first allocation, accounts, transfers and escrow.
Does not belong here: what anything is worth or whom a round should pay (``marketplace``), the audit
log (``audit``), and nothing about patients: a pool of a study at a site is the finest thing an
account is named for.
"""
