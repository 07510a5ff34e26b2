"""The tables of the agent's database, which ``fl_client.store`` reads and writes."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()
ANSWERS = sa.Table(
    "answers",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("reply", sa.LargeBinary, nullable=False),
    sa.Column("integers", sa.LargeBinary),
)
PERSONAL = sa.Table(
    "personal",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("kept", sa.LargeBinary, nullable=False),  # what the algorithm keeps at the site
)
PERSONAL_MEMBERS = sa.Table(
    "personal_members",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("members", sa.Text, nullable=False),  # a JSON list of fingerprints under the salt
)
ROUND_SECRETS = sa.Table(
    "round_secrets",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("call", sa.Text, primary_key=True),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("secrets", sa.LargeBinary, nullable=False),
    sa.Column("reply", sa.LargeBinary, nullable=False),
)
PLANS = sa.Table(
    "plans",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("plan", sa.Text, nullable=False),
    sa.Column("shares", sa.LargeBinary, nullable=False),  # the others', unsealed, by dealer
)
ENDORSED = sa.Table(
    "endorsed",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("commitment", sa.Text, nullable=False),
    sa.Column("nonce", sa.Text, nullable=False),
    sa.Column("integers_sha256", sa.Text),  # of what it opened
)
MANIFESTS = sa.Table(
    "manifests",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("manifest", sa.Text, nullable=False),
)
CERTIFICATES = sa.Table(
    "certificates",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("chunk", sa.Integer, primary_key=True),
    sa.Column("selection", sa.Text, nullable=False),  # digest of chunk root, scope and slots
    sa.Column("certificate", sa.Text, nullable=False),
)
GROUP_KEY = sa.Table(
    "group_key",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("key_id", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),  # a frame: what the site holds of the key
)
KEY_PARTS = sa.Table(
    "key_parts",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("cohort", sa.Text, primary_key=True),  # digest of the sites it was made for
    sa.Column("part", sa.LargeBinary, nullable=False),
)
LANE = sa.Table(
    "lane",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("chunk", sa.Integer, primary_key=True),
    sa.Column("epoch", sa.Integer, nullable=False),  # of the registry: the newest seen here
    sa.Column("leaves", sa.Text, nullable=False),  # a JSON list of decimal texts
)
JOBS = sa.Table(
    "jobs",
    METADATA,
    sa.Column("job", sa.Text, primary_key=True),  # its hash
    sa.Column("study", sa.Text, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("terms", sa.Text, nullable=False),
    sa.Column("offered_at", sa.Text, nullable=False),
)
UNDER_WAY = sa.Table(
    "rounds_under_way",
    METADATA,
    sa.Column("study", sa.Text, primary_key=True),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("until", sa.Text, nullable=False),  # when its server will have given it up
)
LOG_HEAD = sa.Table(
    "log_head",
    METADATA,
    sa.Column("one", sa.Integer, primary_key=True),  # always 1
    sa.Column("size", sa.Integer, nullable=False),  # of the audit log as it was last read
    sa.Column("root", sa.LargeBinary, nullable=False),
)
DUTY = sa.Table(
    "duty",
    METADATA,
    sa.Column("one", sa.Integer, primary_key=True),  # always 1
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
)
