"""The books: who holds how much BTT, what is held in escrow, and a log nobody can quietly edit.

Belongs here: the supply and its first allocation, accounts, transfers, escrow, and the audit log.
Does not belong here: what anything is worth or whom a round should pay (``marketplace``), and
nothing about patients: a pool of a study at a site is the finest thing an account is named for.
"""
