"""The tables of the server's database, which ``fl_server.store`` reads and writes."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()
STUDY = sa.Table(
    "study",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("terms", sa.Text, nullable=False),
)
MODELS = sa.Table(
    "models",
    METADATA,
    sa.Column("round", sa.Integer, primary_key=True),  # 0 is the model the study starts from
    sa.Column("vector", sa.LargeBinary, nullable=False),
    sa.Column("momentum", sa.LargeBinary, nullable=False),
    sa.Column("steps", sa.LargeBinary, nullable=False),
)
CARRIED = sa.Table(
    "carried",
    METADATA,
    sa.Column("round", sa.Integer, sa.ForeignKey("models.round"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),  # as the study's algorithm calls it
    sa.Column("vector", sa.LargeBinary, nullable=False),
)
GROUP_KEY = sa.Table(
    "group_key",
    METADATA,
    sa.Column("site", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("frame", sa.LargeBinary),  # passed on as it is; none for the dealer
)
ROUNDS = sa.Table(
    "rounds",
    METADATA,
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("called", sa.Integer, nullable=False),
    sa.Column("lanes", sa.Text, nullable=False),
    sa.Column("shares", sa.LargeBinary, nullable=False),  # sealed, site to site
    sa.Column("frozen", sa.Boolean, nullable=False, default=False),
    sa.Column("integers", sa.LargeBinary),
    sa.Column("closed", sa.Text),
    sa.Column("manifest", sa.Text),
    sa.Column("commitment", sa.Text),
    sa.Column("faults", sa.Text),  # a JSON list
    sa.Column("settled", sa.Boolean, nullable=False, default=False),
)
UPLOADS = sa.Table(
    "uploads",
    METADATA,
    sa.Column("round", sa.Integer, sa.ForeignKey("rounds.round"), primary_key=True),
    sa.Column("site", sa.Text, primary_key=True),
    sa.Column("contribution", sa.Text, nullable=False),
    sa.Column("blob", sa.LargeBinary),
    sa.Column("bytes", sa.Integer, nullable=False),
    # Patients who withdrew between the plan and the training, as the site counts them.
    sa.Column("left_out", sa.Integer, nullable=False, default=0),
)
REFUSALS = sa.Table(
    "refusals",
    METADATA,
    sa.Column("round", sa.Integer, sa.ForeignKey("rounds.round"), primary_key=True),
    sa.Column("site", sa.Text, primary_key=True),
    sa.Column("refusal", sa.Text, nullable=False),
)
CERTIFICATES = sa.Table(
    "certificates",
    METADATA,
    # SHA-256 of key hash and statement, never of the proof: Groth16 proofs are malleable.
    sa.Column("statement", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
)
