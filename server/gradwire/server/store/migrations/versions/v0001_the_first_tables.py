"""First tables: grants, budgets, usage, the ledger and charges."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "grants",
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("access", sa.Text, nullable=False),
        sa.Column("activations", sa.Boolean, nullable=False),
        sa.Column("operations", sa.Text),
        sa.Column("decimals", sa.Integer),
        sa.Column("top_k", sa.Integer),
        sa.Column("max_forward", sa.BigInteger),
        sa.Column("max_backward", sa.BigInteger),
        sa.Column("window_s", sa.BigInteger),
        sa.Column("window_forward", sa.BigInteger),
        sa.Column("window_backward", sa.BigInteger),
        sa.Column("rows_per_s", sa.Float(53)),
        sa.Column("expires_at_us", sa.BigInteger),
        sa.Column("revoked", sa.Boolean, nullable=False),
        sa.Column("updated_at_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "generation",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("changes", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "budgets",
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("period", sa.Text, primary_key=True),
        sa.Column("window_start", sa.BigInteger, nullable=False),
        sa.Column("taken_forward", sa.BigInteger, nullable=False),
        sa.Column("taken_backward", sa.BigInteger, nullable=False),
        sa.Column("restocks", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "usage",
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("used_forward", sa.BigInteger, nullable=False),
        sa.Column("used_backward", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "calls",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("server", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("operation", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("forward", sa.BigInteger, nullable=False),
        sa.Column("backward", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("latency_us", sa.BigInteger, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
    )
    op.create_index("calls_by_time", "calls", ["at_us"])
    op.create_index("calls_by_principal", "calls", ["principal", "at_us"])
    op.create_index("calls_by_model", "calls", ["model", "at_us"])
    op.create_table(
        "charges",
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("forward", sa.BigInteger, nullable=False),
        sa.Column("backward", sa.BigInteger, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("booked", sa.Boolean, nullable=False),
    )
    op.create_index("charges_by_time", "charges", ["at_us"])
    op.create_table(
        "writers",
        sa.Column("writer", sa.Text, primary_key=True),
        sa.Column("batch", sa.BigInteger, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drops the tables."""
    for table in ("writers", "charges", "calls", "usage", "budgets", "generation", "grants"):
        op.drop_table(table)
