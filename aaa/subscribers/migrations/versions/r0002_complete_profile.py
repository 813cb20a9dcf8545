"""Other algorithms, schemes of sequence numbers, the whole profile, keys under a master key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

KEYS = {"k": False, "op": True, "opc": True}  # and whether they may be null
ONE_OPERATOR_KEY = "op IS NULL OR opc IS NULL"
EXACTLY_ONE_OPERATOR_KEY = "(op IS NULL) <> (opc IS NULL)"


def subscriber_columns() -> tuple[sa.Column[int] | sa.Column[str] | sa.Column[bool], ...]:
    """New columns of subscribers, with what the rows that are there get."""
    return (
        sa.Column("tuak_iterations", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.Column("res_length", sa.Integer(), nullable=False, server_default=sa.text("8")),
        sa.Column("sqn_generation", sa.String(24), nullable=False, server_default=sa.text("'not-time-based'")),
        sa.Column("ind_bits", sa.Integer(), nullable=False, server_default=sa.text("5")),
        sa.Column("roaming_allowed", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("visited_networks", sa.Text(), nullable=False, server_default=sa.text("''")),
        sa.Column("wlan_allowed", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("key_version", sa.Integer(), nullable=True),
        sa.Column("clock_difference", sa.BigInteger(), nullable=True),
        sa.Column("ambr_uplink_bits", sa.BigInteger(), nullable=True),
        sa.Column("ambr_downlink_bits", sa.BigInteger(), nullable=True),
        sa.Column("session_timeout", sa.BigInteger(), nullable=True),
        sa.Column("imei", sa.String(16), nullable=True),
    )


def apn_columns() -> tuple[sa.Column[int] | sa.Column[str] | sa.Column[bool], ...]:
    """New columns of APNs."""
    return (
        sa.Column("qci", sa.Integer(), nullable=False, server_default=sa.text("9")),
        sa.Column("priority_level", sa.Integer(), nullable=False, server_default=sa.text("8")),
        sa.Column("pre_emption_capability", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("pre_emption_vulnerability", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("visited_dynamic_address", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("static_ipv6", sa.String(43), nullable=True),
        sa.Column("pgw", sa.String(255), nullable=True),
    )


def upgrade() -> None:
    """To this revision."""
    with op.batch_alter_table("subscribers") as table:
        for column in subscriber_columns():
            table.add_column(column)
        for name, nullable in KEYS.items():
            table.alter_column(
                name, existing_type=sa.LargeBinary(16), type_=sa.LargeBinary(64), existing_nullable=nullable
            )
        table.drop_constraint(op.f("ck_subscribers_op_or_opc"), type_="check")
        table.create_check_constraint(op.f("ck_subscribers_op_or_opc"), ONE_OPERATOR_KEY)
        table.create_index(op.f("ix_subscribers_key_version"), ["key_version"])
    with op.batch_alter_table("apns") as table:
        for column in apn_columns():
            table.add_column(column)
        table.alter_column("pdn_type", existing_type=sa.String(8), type_=sa.String(16), existing_nullable=False)
    op.create_table(
        "master_keys",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("witness", sa.LargeBinary(64), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_master_keys")),
    )


def downgrade() -> None:
    """Back to Milenage and to keys in clear: subscribers of anything else are removed."""
    gone = "algorithm <> 'milenage' OR key_version IS NOT NULL"
    op.execute(f"DELETE FROM apns WHERE imsi IN (SELECT imsi FROM subscribers WHERE {gone})")
    op.execute(f"DELETE FROM subscribers WHERE {gone}")
    op.execute("UPDATE apns SET pdn_type = 'ipv4v6' WHERE pdn_type = 'ipv4-or-ipv6'")
    op.drop_table("master_keys")
    with op.batch_alter_table("apns") as table:
        for column in apn_columns():
            table.drop_column(column.name)
        table.alter_column("pdn_type", existing_type=sa.String(16), type_=sa.String(8), existing_nullable=False)
    with op.batch_alter_table("subscribers") as table:
        table.drop_index(op.f("ix_subscribers_key_version"))
        for column in subscriber_columns():
            table.drop_column(column.name)
        for name, nullable in KEYS.items():
            table.alter_column(
                name, existing_type=sa.LargeBinary(64), type_=sa.LargeBinary(16), existing_nullable=nullable
            )
        table.drop_constraint(op.f("ck_subscribers_op_or_opc"), type_="check")
        table.create_check_constraint(op.f("ck_subscribers_op_or_opc"), EXACTLY_ONE_OPERATOR_KEY)
