"""Where Alembic enters: it runs on the connection, and in the transaction, that the database opened for it."""

from alembic import context

from picopayments_cli.hub.schema import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
