"""scopes of keys, trust rules, quotas, the audit log"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0006'
down_revision = '0009'
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), 'postgresql')


def upgrade() -> None:
    with op.batch_alter_table('projects', schema=None) as batch_op:
        batch_op.add_column(sa.Column('max_live_jobs', sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column('max_stored_bytes', sa.BigInteger(), nullable=True))

    # The keys that are there were made at a first start: they could do all there was.
    with op.batch_alter_table('api_keys', schema=None) as batch_op:
        batch_op.add_column(sa.Column('scopes', JSON, nullable=False, server_default='["admin"]'))
        batch_op.add_column(sa.Column('operator', sa.Boolean(), nullable=False, server_default=sa.true()))
        batch_op.add_column(sa.Column('revoked_at', sa.Float(precision=53), nullable=True))
        batch_op.add_column(sa.Column('last_used_at', sa.Float(precision=53), nullable=True))
        batch_op.add_column(sa.Column('replaced_by', sa.String(length=40), nullable=True))
        batch_op.add_column(sa.Column('trust_rule_id', sa.String(length=40), nullable=True))
        batch_op.create_index(batch_op.f('ix_api_keys_project_id_id'), ['project_id', 'id'], unique=False)
        batch_op.create_index(batch_op.f('ix_api_keys_expires_at'), ['expires_at'], unique=False)
    with op.batch_alter_table('api_keys', schema=None) as batch_op:
        batch_op.alter_column('scopes', server_default=None)
        batch_op.alter_column('operator', server_default=None)

    with op.batch_alter_table('artifacts', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_artifacts_project_id'), ['project_id'], unique=False)

    op.create_table('trust_rules',
    sa.Column('id', sa.String(length=40), nullable=False),
    sa.Column('project_id', sa.String(length=40), nullable=False),
    sa.Column('name', sa.String(length=200), nullable=False),
    sa.Column('issuer', sa.String(length=500), nullable=False),
    sa.Column('audience', sa.String(length=500), nullable=False),
    sa.Column('jwks_url', sa.String(length=500), nullable=True),
    sa.Column('conditions', JSON, nullable=False),
    sa.Column('scopes', JSON, nullable=False),
    sa.Column('key_seconds', sa.BigInteger(), nullable=False),
    sa.Column('created_at', sa.Float(precision=53), nullable=False),
    sa.ForeignKeyConstraint(['project_id'], ['projects.id'], name=op.f('fk_trust_rules_project_id_projects')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_trust_rules'))
    )
    with op.batch_alter_table('trust_rules', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_trust_rules_project_id_id'), ['project_id', 'id'], unique=False)
        batch_op.create_index(batch_op.f('ix_trust_rules_issuer'), ['issuer'], unique=False)

    op.create_table('exchanged_tokens',
    sa.Column('digest', sa.String(length=64), nullable=False),
    sa.Column('expires_at', sa.Float(precision=53), nullable=False),
    sa.PrimaryKeyConstraint('digest', name=op.f('pk_exchanged_tokens'))
    )
    with op.batch_alter_table('exchanged_tokens', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_exchanged_tokens_expires_at'), ['expires_at'], unique=False)

    op.create_table('audit_log',
    sa.Column('id', sa.String(length=40), nullable=False),
    sa.Column('project_id', sa.String(length=40), nullable=False),
    sa.Column('at', sa.Float(precision=53), nullable=False),
    sa.Column('key_id', sa.String(length=40), nullable=True),
    sa.Column('action', sa.String(length=60), nullable=False),
    sa.Column('object_id', sa.String(length=40), nullable=True),
    sa.Column('outcome', sa.String(length=20), nullable=False),
    sa.Column('request_id', sa.String(length=128), nullable=False),
    sa.Column('detail', JSON, nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_audit_log'))
    )
    with op.batch_alter_table('audit_log', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_audit_log_project_id_id'), ['project_id', 'id'], unique=False)


def downgrade() -> None:
    op.drop_table('audit_log')
    op.drop_table('exchanged_tokens')
    op.drop_table('trust_rules')
    with op.batch_alter_table('artifacts', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_artifacts_project_id'))

    # What the schema before cannot say (less than everything, no longer) must open nothing there.
    op.execute(sa.text('delete from api_keys where not operator or revoked_at is not null'))
    with op.batch_alter_table('api_keys', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_api_keys_expires_at'))
        batch_op.drop_index(batch_op.f('ix_api_keys_project_id_id'))
        for name in ('trust_rule_id', 'replaced_by', 'last_used_at', 'revoked_at', 'operator', 'scopes'):
            batch_op.drop_column(name)

    with op.batch_alter_table('projects', schema=None) as batch_op:
        batch_op.drop_column('max_stored_bytes')
        batch_op.drop_column('max_live_jobs')
