"""comparisons"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0013'
down_revision = '0015'
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), 'postgresql')
OPEN = sa.text('concluded_at IS NULL')


def upgrade() -> None:
    op.create_table('comparisons',
    sa.Column('id', sa.String(length=40), nullable=False),
    sa.Column('project_id', sa.String(length=40), nullable=False),
    sa.Column('model_id', sa.String(length=40), nullable=False),
    sa.Column('dataset_id', sa.String(length=40), nullable=False),
    sa.Column('recipes', JSON, nullable=False),
    sa.Column('seeds', JSON, nullable=False),
    sa.Column('goal', JSON, nullable=False),
    sa.Column('gates', JSON, nullable=False),
    sa.Column('asked', JSON, nullable=False),
    sa.Column('version', sa.BigInteger(), nullable=False),
    sa.Column('conclusion', sa.String(length=20), nullable=True),
    sa.Column('concluded_at', sa.Float(precision=53), nullable=True),
    sa.Column('created_at', sa.Float(precision=53), nullable=False),
    sa.ForeignKeyConstraint(['project_id'], ['projects.id'], name=op.f('fk_comparisons_project_id_projects')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_comparisons'))
    )
    op.create_index(op.f('ix_comparisons_project_id_id'), 'comparisons', ['project_id', 'id'], unique=False)
    op.create_index('ix_comparisons_open', 'comparisons', ['id'], sqlite_where=OPEN, postgresql_where=OPEN)
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('comparison_id', sa.String(length=40), nullable=True))
        batch_op.add_column(sa.Column('comparison_recipe', sa.BigInteger(), nullable=True))
        batch_op.create_foreign_key(batch_op.f('fk_jobs_comparison_id_comparisons'), 'comparisons', ['comparison_id'], ['id'], ondelete='SET NULL')
        batch_op.create_index(batch_op.f('ix_jobs_comparison_id'), ['comparison_id'], unique=False)
    _claim_in_order()


def _claim_in_order() -> None:
    """SQLite alters a table by copying it, and the copy's index has lost the DESC that claims read it by."""
    op.drop_index('ix_jobs_claim', table_name='jobs')
    op.create_index('ix_jobs_claim', 'jobs', ['pool', 'status', sa.text('priority DESC'), 'id'])


def downgrade() -> None:
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_jobs_comparison_id'))
        batch_op.drop_constraint(batch_op.f('fk_jobs_comparison_id_comparisons'), type_='foreignkey')
        batch_op.drop_column('comparison_recipe')
        batch_op.drop_column('comparison_id')
    _claim_in_order()
    op.drop_index('ix_comparisons_open', table_name='comparisons')
    op.drop_index(op.f('ix_comparisons_project_id_id'), table_name='comparisons')
    op.drop_table('comparisons')
