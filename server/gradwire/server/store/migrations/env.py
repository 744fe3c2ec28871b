"""Alembic environment that runs the migrations in the transaction of the given connection."""

from __future__ import annotations

from alembic import context

from gradwire.server.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
