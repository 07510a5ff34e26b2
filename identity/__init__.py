"""Who may do what, and how the federation knows: roles, accounts, certificates, enrolment of sites.

What belongs here: the table of roles and permissions and the one check against it, the store of
local accounts and their sessions, the consortium's certificate authority, and the two files that a
hospital and the operator exchange. What does not belong here: pages and commands (portal), what a
permission allows (the room that owns it), studies' terms and consent.
"""
