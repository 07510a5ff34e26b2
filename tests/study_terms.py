"""Terms of a study for tests that are about something else: a tiny model, any consent, any privacy.

A test names what matters to it, and the rest is here once.
"""

from protocol.terms import ConsentTerms, PrivacyTerms, SiteIdentity, StudyTerms, TrainingTerms

TRAINING = {
    "network": "none",
    "reference_patients": 10,
    "learning_rate": 1,
    "server_learning_rate": 1,
    "server_momentum": 0,
    "augment": False,
}
PRIVACY = {
    "epsilon": 3,
    "delta": 1e-5,
    "sampling_rate": 1,
    "noise_multiplier": 1,
    "clipping_norm": 1,
    "steps": 1,
    "accountant": "rdp",
}
CONSENT = {
    "registry": "registry",
    "registry_key": bytes(32),
    "dataset": "scans",
    "required": 1,
    "from_day": 20_000,
    "through_day": 20_030,
    "circuit": "cover8",
    "key_hash": "0" * 64,
}


def identities_of(keys):
    """Return what the terms say of sites, by their keys."""
    return tuple(
        SiteIdentity(site=site, signing_key=one.signing_public, agreement_key=one.agreement_public)
        for site, one in keys.items()
    )


def bare_terms(sites, *, length=4, training=(), privacy=(), consent=(), **changes):
    """Return terms of a study whose model has ``length`` numbers.

    Args:
        sites: Their identities.
        length: Of the model.
        training: What is another than in ``TRAINING``, and so on.
        privacy: Likewise.
        consent: Likewise.
        changes: Fields of the study itself.
    """
    shape = {"input_shape": (length,), "tensor_sizes": (length,)}
    fields = {
        "study": "breast-2026",
        "title": "Breast ultrasound",
        "rounds": 10,
        "sites": tuple(sites),
        "server_key": bytes(32),
        "training": TrainingTerms(**TRAINING | shape | dict(training)),
        "privacy": PrivacyTerms(**PRIVACY | dict(privacy)),
        "consent": ConsentTerms(**CONSENT | dict(consent)),
        "encryption": "packed-bfv-8",
    }
    return StudyTerms(**fields | changes)
