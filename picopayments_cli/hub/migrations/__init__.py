"""The history of the hub database's tables, one Alembic revision a file under versions/."""
