"""webhooks"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0008'
down_revision = '0006'
branch_labels = None
depends_on = None


def upgrade() -> None:
    json = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), 'postgresql')
    op.create_table(
        'webhooks',
        sa.Column('id', sa.String(length=40), nullable=False),
        sa.Column('project_id', sa.String(length=40), nullable=False),
        sa.Column('url', sa.String(length=2000), nullable=False),
        sa.Column('events', sa.String(length=400), nullable=False),
        sa.Column('description', sa.String(length=400), nullable=False),
        sa.Column('enabled', sa.Boolean(), nullable=False),
        sa.Column('disabled_reason', sa.String(length=400), nullable=True),
        sa.Column('failing_since', sa.Float(precision=53), nullable=True),
        sa.Column('rotation', sa.BigInteger(), nullable=False),
        sa.Column('rotated_at', sa.Float(precision=53), nullable=True),
        sa.Column('created_at', sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(['project_id'], ['projects.id'], name=op.f('fk_webhooks_project_id_projects')),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_webhooks')),
    )
    op.create_index(op.f('ix_webhooks_project_id_id'), 'webhooks', ['project_id', 'id'], unique=False)
    op.create_table(
        'deliveries',
        sa.Column('webhook_id', sa.String(length=40), nullable=False),
        sa.Column('id', sa.String(length=40), nullable=False),
        sa.Column('type', sa.String(length=40), nullable=False),
        sa.Column('data', json, nullable=False),
        sa.Column('status', sa.String(length=20), nullable=False),
        sa.Column('attempt', sa.BigInteger(), nullable=False),
        sa.Column('attempts', json, nullable=False),
        sa.Column('failures', sa.BigInteger(), nullable=False),
        sa.Column('next_attempt_at', sa.Float(precision=53), nullable=True),
        sa.Column('created_at', sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(['webhook_id'], ['webhooks.id'], name=op.f('fk_deliveries_webhook_id_webhooks'), ondelete='CASCADE'),
        sa.PrimaryKeyConstraint('webhook_id', 'id', name=op.f('pk_deliveries')),
    )
    op.create_index(op.f('ix_deliveries_next_attempt_at'), 'deliveries', ['next_attempt_at'], unique=False)
    op.create_index(op.f('ix_deliveries_created_at'), 'deliveries', ['created_at'], unique=False)


def downgrade() -> None:
    op.drop_table('deliveries')
    op.drop_table('webhooks')
