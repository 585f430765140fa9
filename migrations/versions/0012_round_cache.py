"""names of rounds, who computes which, and the turns of projects"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0012'
down_revision = '0013'
branch_labels = None
depends_on = None

HELD = sa.text('lease_until IS NOT NULL')
AWAITS = sa.text('awaits IS NOT NULL')
CLAIMABLE = sa.text("status = 'queued' AND awaits IS NULL")


def upgrade() -> None:
    op.create_table('underway',
    sa.Column('project_id', sa.String(length=40), nullable=False),
    sa.Column('name', sa.String(length=64), nullable=False),
    sa.Column('job_id', sa.String(length=40), nullable=False),
    sa.Column('number', sa.BigInteger(), nullable=True),
    sa.Column('is_awaited', sa.Boolean(), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_underway_job_id_jobs'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('project_id', 'name', name=op.f('pk_underway')),
    sa.UniqueConstraint('job_id', name=op.f('uq_underway_job_id'))
    )
    op.add_column('rounds', sa.Column('name', sa.String(length=64), nullable=True))
    op.add_column('rounds', sa.Column('adopted_from', sa.String(length=40), nullable=True))
    op.create_index(op.f('ix_rounds_name'), 'rounds', ['name'], unique=False)
    op.add_column('jobs', sa.Column('awaits', sa.String(length=64), nullable=True))
    op.add_column('jobs', sa.Column('is_awaited', sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index('ix_jobs_busy', 'jobs', ['pool', 'project_id'], sqlite_where=HELD, postgresql_where=HELD)
    op.create_index('ix_jobs_awaits', 'jobs', ['project_id', 'awaits'], sqlite_where=AWAITS, postgresql_where=AWAITS)
    op.create_index(
        'ix_jobs_turns', 'jobs', ['pool', sa.text('priority DESC'), 'project_id', sa.text('is_awaited DESC'), 'id'],
        sqlite_where=CLAIMABLE, postgresql_where=CLAIMABLE,
    )


def downgrade() -> None:
    op.drop_index('ix_jobs_turns', table_name='jobs')
    op.drop_index('ix_jobs_awaits', table_name='jobs')
    op.drop_index('ix_jobs_busy', table_name='jobs')
    op.drop_column('jobs', 'is_awaited')
    op.drop_column('jobs', 'awaits')
    op.drop_index(op.f('ix_rounds_name'), table_name='rounds')
    op.drop_column('rounds', 'adopted_from')
    op.drop_column('rounds', 'name')
    op.drop_table('underway')
