"""Medical records as a hospital keeps them, read with suspicion and handed over as arrays.

Belongs here: DICOM files, folders of images with a manifest, NIfTI volumes with masks, tables, the
synthetic phantom, how patients are divided among sites and held out, and the digests that name a
record in a proof. Does not belong here: consent, training, privacy, networks, and anything that
sends a byte.
"""
