"""The patient's page and its HTTP API: one process, thin over ``consent``.

Here: routes, the page, what a hospital's steward does beside it. Not here: rules of consent, which
are ``consent``'s, and proofs, which are ``zk``'s and made in the patient's browser.
"""
