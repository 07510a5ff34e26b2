"""The tables of the server's database, which ``fl_server.store`` reads and writes."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()
SCHEMA = sa.Table(
    "schema_version",
    METADATA,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)
LEASE = sa.Table(
    "lease",
    METADATA,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("fence", sa.BigInteger, nullable=False),  # grows with every server that takes over
    sa.Column("holder", sa.Text, nullable=False),  # empty where it was given back
    sa.Column("beat", sa.BigInteger, nullable=False),  # counts; no clock is compared
)
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
    sa.Column("sha256", sa.Text, nullable=False),  # of what the sites are sent
    sa.Column("steps", sa.LargeBinary, nullable=False),
    sa.Column("carried", sa.Text, nullable=False),  # a JSON list of names; vectors lie in parts
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
    sa.Column("integers", sa.BigInteger),  # how many were opened; they lie in parts
    sa.Column("closed", sa.Text),
    sa.Column("manifest", sa.Text),
    sa.Column("commitment", sa.Text),
    sa.Column("faults", sa.Text),  # a JSON list
    sa.Column("settled", sa.Boolean, nullable=False, default=False),
)
PHASES = sa.Table(
    "phases",
    METADATA,
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("phase", sa.Text, primary_key=True),
    sa.Column("ended", sa.Text, nullable=False),  # all, quorum or deadline
    sa.Column("answered", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)
ANSWERS = sa.Table(
    "answers",
    METADATA,
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("site", sa.Text, primary_key=True),
    sa.Column("question", sa.Text, primary_key=True),  # a digest of what was asked
    sa.Column("bytes", sa.BigInteger, nullable=False),
)
STRAYS = sa.Table(
    "strays",
    METADATA,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("site", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
)
PARTS = sa.Table(
    "parts",
    METADATA,
    sa.Column("round", sa.Integer, primary_key=True),
    # An upload, an answer's kind and question, integers, a model's vectors (by name).
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("site", sa.Text, primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    sa.Column("blob", sa.LargeBinary),
    sa.Column("file", sa.Text),  # where the blob is a file
)
EVENTS = sa.Table(
    "events",
    METADATA,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("phase", sa.Text, nullable=False),
    sa.Column("site", sa.Text),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("seconds", sa.Float),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("numbers", sa.Text, nullable=False),  # a JSON object of names and numbers
)
UPLOADS = sa.Table(
    "uploads",
    METADATA,
    sa.Column("round", sa.Integer, sa.ForeignKey("rounds.round"), primary_key=True),
    sa.Column("site", sa.Text, primary_key=True),
    sa.Column("contribution", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),  # the blob itself lies in parts
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
