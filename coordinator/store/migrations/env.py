"""What Alembic runs: the migrations, inside the transaction that the store has begun."""

from __future__ import annotations

from alembic import context

from coordinator.store.columns import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=True,  # SQLite's DDL is transactional; Alembic plays it safe by default
)
with context.begin_transaction():
    context.run_migrations()
