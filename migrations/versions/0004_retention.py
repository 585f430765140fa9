"""what is dropped when a job has ended, and names of copies"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('discarded_copies',
    sa.Column('name', sa.String(length=81), nullable=False),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_discarded_copies'))
    )
    with op.batch_alter_table('blobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('name', sa.String(length=81), nullable=True))
        batch_op.add_column(sa.Column('suspect', sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.drop_column('deleting')
    op.execute("UPDATE blobs SET name = digest")
    with op.batch_alter_table('blobs', schema=None) as batch_op:
        batch_op.alter_column('name', existing_type=sa.String(length=81), nullable=False)
        batch_op.alter_column('suspect', existing_type=sa.Boolean(), server_default=None)
        batch_op.create_unique_constraint(batch_op.f('uq_blobs_name'), ['name'])

    for table in ('models', 'datasets'):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.create_index(batch_op.f(f'ix_{table}_blob_digest'), ['blob_digest'], unique=False)
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('keep_rounds', sa.String(length=20), nullable=False, server_default='all'))
        batch_op.add_column(sa.Column('expires_in_seconds', sa.Float(precision=53), nullable=True))
        batch_op.add_column(sa.Column('sweep_at', sa.Float(precision=53), nullable=True))
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.alter_column('keep_rounds', existing_type=sa.String(length=20), server_default=None)
        batch_op.create_index(batch_op.f('ix_jobs_sweep_at'), ['sweep_at'], unique=False)
        batch_op.create_index(batch_op.f('ix_jobs_model_id'), ['model_id'], unique=False)
        batch_op.create_index(batch_op.f('ix_jobs_dataset_id'), ['dataset_id'], unique=False)


def downgrade() -> None:
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_jobs_dataset_id'))
        batch_op.drop_index(batch_op.f('ix_jobs_model_id'))
        batch_op.drop_index(batch_op.f('ix_jobs_sweep_at'))
        batch_op.drop_column('sweep_at')
        batch_op.drop_column('expires_in_seconds')
        batch_op.drop_column('keep_rounds')
    for table in ('datasets', 'models'):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_index(batch_op.f(f'ix_{table}_blob_digest'))
    with op.batch_alter_table('blobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('deleting', sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.drop_constraint(batch_op.f('uq_blobs_name'), type_='unique')
        batch_op.drop_column('suspect')
        batch_op.drop_column('name')
    op.drop_table('discarded_copies')
