"""Contexts of fast re-authentication."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """To this revision."""
    op.create_table(
        "reauthentication_contexts",
        sa.Column("imsi", sa.String(15), nullable=False),
        sa.Column("username", sa.String(64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("imsi", name=op.f("pk_reauthentication_contexts")),
    )


def downgrade() -> None:
    """Without contexts."""
    op.drop_table("reauthentication_contexts")
