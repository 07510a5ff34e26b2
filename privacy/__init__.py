"""Mechanisms that keep an update private on its way from one hospital into a sum.

Belongs here: randomness, differential privacy and its accounting, quantisation, packing,
masks, BFV encryption and the wrapping of its keys, each with the typed errors it raises.
Does not belong here: patients, consent, money, networks, messages between sites. A module
here knows numbers, keys and bytes, and can be audited without reading another package
than ``protocol``.
"""
