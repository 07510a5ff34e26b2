"""The hospital's side: an agent that reads, trains, adds noise, encrypts, proves and signs.

Belongs here: the agent and its egress pipeline, the choice of patients and their certificates,
what a site remembers, and the thin Flower ClientApp that only carries frames to the agent. Does
not belong here: aggregation, prices, or any decision a study could take for the hospital.
"""
