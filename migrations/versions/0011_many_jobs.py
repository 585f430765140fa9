"""indices for tables of millions of jobs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None

HELD = sa.text('lease_until IS NOT NULL')


def upgrade() -> None:
    op.create_index('ix_jobs_held', 'jobs', ['lease_until'], sqlite_where=HELD, postgresql_where=HELD)
    op.drop_index('ix_jobs_claim', table_name='jobs')
    op.create_index('ix_jobs_claim', 'jobs', ['pool', 'status', sa.text('priority DESC'), 'id'])


def downgrade() -> None:
    op.drop_index('ix_jobs_claim', table_name='jobs')
    op.create_index('ix_jobs_claim', 'jobs', ['pool', 'status', 'priority', 'id'])
    op.drop_index('ix_jobs_held', table_name='jobs')
