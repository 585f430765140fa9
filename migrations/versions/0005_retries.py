"""retries"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('retried_from', sa.String(length=40), nullable=True))
        batch_op.create_index(batch_op.f('ix_jobs_retried_from'), ['retried_from'], unique=False)
        batch_op.create_foreign_key(batch_op.f('fk_jobs_retried_from_jobs'), 'jobs', ['retried_from'], ['id'], ondelete='SET NULL')


def downgrade() -> None:
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f('fk_jobs_retried_from_jobs'), type_='foreignkey')
        batch_op.drop_index(batch_op.f('ix_jobs_retried_from'))
        batch_op.drop_column('retried_from')
