"""The newest request of each connection, with the client's sealed state, which gets it back."""

import sqlalchemy as sa
from alembic import op

revision = "state_01"
down_revision = "workers_01"


def upgrade() -> None:
    """Add the column of the newest requests; those of before are not there."""
    op.add_column("heads", sa.Column("last_request", sa.Text))
