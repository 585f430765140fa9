"""what workers have installed, and how an artifact was checked"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0015'
down_revision = '0011'
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), 'postgresql')


def upgrade() -> None:
    op.add_column('workers', sa.Column('extras', JSON, nullable=True))
    op.add_column('artifacts', sa.Column('verified', JSON, nullable=True))


def downgrade() -> None:
    op.drop_column('artifacts', 'verified')
    op.drop_column('workers', 'extras')
