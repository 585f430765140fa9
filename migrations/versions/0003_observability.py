"""counters, workers, and a job's trace"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('counters',
    sa.Column('name', sa.String(length=60), nullable=False),
    sa.Column('labels', sa.String(length=300), nullable=False),
    sa.Column('value', sa.Float(precision=53), nullable=False),
    sa.PrimaryKeyConstraint('name', 'labels', name=op.f('pk_counters'))
    )
    op.create_table('workers',
    sa.Column('id', sa.String(length=200), nullable=False),
    sa.Column('pool', sa.String(length=60), nullable=False),
    sa.Column('device', sa.String(length=20), nullable=False),
    sa.Column('slots', sa.BigInteger(), nullable=False),
    sa.Column('hostname', sa.String(length=200), nullable=False),
    sa.Column('version', sa.String(length=40), nullable=False),
    sa.Column('started_at', sa.Float(precision=53), nullable=False),
    sa.Column('seen_at', sa.Float(precision=53), nullable=False),
    sa.Column('state', sa.String(length=20), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_workers'))
    )
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('traceparent', sa.String(length=60), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.drop_column('traceparent')
    op.drop_table('workers')
    op.drop_table('counters')
