"""idempotency keys, labels of jobs, step times"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0010'
down_revision = '0008'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('idempotency_keys',
    sa.Column('project_id', sa.String(length=40), nullable=False),
    sa.Column('route', sa.String(length=200), nullable=False),
    sa.Column('key', sa.String(length=255), nullable=False),
    sa.Column('fingerprint', sa.String(length=64), nullable=False),
    sa.Column('content_digest', sa.String(length=64), nullable=True),
    sa.Column('holder', sa.String(length=40), nullable=False),
    sa.Column('status', sa.BigInteger(), nullable=True),
    sa.Column('headers', sa.JSON().with_variant(postgresql.JSONB(), 'postgresql'), nullable=True),
    sa.Column('body', sa.Text(), nullable=True),
    sa.Column('expires_at', sa.Float(precision=53), nullable=False),
    sa.ForeignKeyConstraint(['project_id'], ['projects.id'], name=op.f('fk_idempotency_keys_project_id_projects'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('project_id', 'route', 'key', name=op.f('pk_idempotency_keys'))
    )
    op.create_index(op.f('ix_idempotency_keys_expires_at'), 'idempotency_keys', ['expires_at'], unique=False)
    op.create_table('step_times',
    sa.Column('pool', sa.String(length=60), nullable=False),
    sa.Column('architecture', sa.String(length=64), nullable=False),
    sa.Column('batch_size', sa.BigInteger(), nullable=False),
    sa.Column('macs', sa.BigInteger(), nullable=True),
    sa.Column('seconds_per_step', sa.Float(precision=53), nullable=False),
    sa.Column('seconds_per_entry', sa.Float(precision=53), nullable=False),
    sa.Column('seconds_to_start', sa.Float(precision=53), nullable=False),
    sa.Column('seconds_to_end', sa.Float(precision=53), nullable=False),
    sa.Column('fraction_made', sa.Float(precision=53), nullable=True),
    sa.Column('num_measured', sa.BigInteger(), nullable=False),
    sa.Column('measured_at', sa.Float(precision=53), nullable=False),
    sa.PrimaryKeyConstraint('pool', 'architecture', 'batch_size', name=op.f('pk_step_times'))
    )
    labels = op.create_table('job_labels',
    sa.Column('job_id', sa.String(length=40), nullable=False),
    sa.Column('project_id', sa.String(length=40), nullable=False),
    sa.Column('key', sa.String(length=64), nullable=False),
    sa.Column('value', sa.String(length=512), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_job_labels_job_id_jobs'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', 'key', name=op.f('pk_job_labels'))
    )
    op.create_index('ix_job_labels_value', 'job_labels', ['project_id', 'key', 'value', 'job_id'], unique=False)
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_jobs_project_id_created_at'), ['project_id', 'created_at'], unique=False)
    _label_what_is_there(labels)


def _label_what_is_there(labels: sa.Table) -> None:
    stored = op.get_bind().execute(sa.text('SELECT id, project_id, options FROM jobs')).all()
    for job_id, project_id, options in stored:
        given = json.loads(options) if isinstance(options, str) else options
        rows = [
            {'job_id': job_id, 'project_id': project_id, 'key': key, 'value': value}
            for key, value in given.get('metadata', {}).items()
        ]
        if rows:
            op.bulk_insert(labels, rows)


def downgrade() -> None:
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_jobs_project_id_created_at'))
    op.drop_index('ix_job_labels_value', table_name='job_labels')
    op.drop_table('job_labels')
    op.drop_table('step_times')
    op.drop_index(op.f('ix_idempotency_keys_expires_at'), table_name='idempotency_keys')
    op.drop_table('idempotency_keys')
