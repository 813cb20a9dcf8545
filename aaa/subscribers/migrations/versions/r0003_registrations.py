"""Registrations of users and their PDN gateways."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """To this revision."""
    op.create_table(
        "registrations",
        sa.Column("imsi", sa.String(15), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("realm", sa.String(255), nullable=False),
        sa.Column("profile", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("imsi", name=op.f("pk_registrations")),
    )
    op.create_table(
        "pgws",
        sa.Column("imsi", sa.String(15), nullable=False),
        sa.Column("apn", sa.String(100), nullable=False),
        sa.Column("pgw", sa.String(255), nullable=False),
        sa.ForeignKeyConstraint(["imsi"], ["registrations.imsi"], name=op.f("fk_pgws_imsi"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("imsi", "apn", name=op.f("pk_pgws")),
    )


def downgrade() -> None:
    """Without registrations."""
    op.drop_table("pgws")
    op.drop_table("registrations")
