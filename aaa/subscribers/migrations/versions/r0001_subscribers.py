"""Subscribers and their APNs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """To this revision."""
    op.create_table(
        "subscribers",
        sa.Column("imsi", sa.String(15), nullable=False),
        sa.Column("k", sa.LargeBinary(16), nullable=False),
        sa.Column("op", sa.LargeBinary(16), nullable=True),
        sa.Column("opc", sa.LargeBinary(16), nullable=True),
        sa.Column("amf", sa.LargeBinary(2), nullable=False),
        sa.Column("algorithm", sa.String(16), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("non_3gpp_allowed", sa.Boolean(), nullable=False),
        sa.Column("msisdn", sa.String(15), nullable=True),
        sa.CheckConstraint("(op IS NULL) <> (opc IS NULL)", name=op.f("ck_subscribers_op_or_opc")),
        sa.CheckConstraint("sequence >= 0", name=op.f("ck_subscribers_sequence_not_negative")),
        sa.PrimaryKeyConstraint("imsi", name=op.f("pk_subscribers")),
    )
    op.create_table(
        "apns",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("imsi", sa.String(15), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("pdn_type", sa.String(8), nullable=False),
        sa.Column("ambr_uplink_bits", sa.BigInteger(), nullable=False),
        sa.Column("ambr_downlink_bits", sa.BigInteger(), nullable=False),
        sa.Column("static_ipv4", sa.String(15), nullable=True),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["imsi"], ["subscribers.imsi"], name=op.f("fk_apns_imsi"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_apns")),
        sa.UniqueConstraint("imsi", "name", name=op.f("uq_apns_imsi")),
    )


def downgrade() -> None:
    """Back to the empty database."""
    op.drop_table("apns")
    op.drop_table("subscribers")
