"""resumable uploads"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0007'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('uploads',
    sa.Column('id', sa.String(length=40), nullable=False),
    sa.Column('project_id', sa.String(length=40), nullable=False),
    sa.Column('length_bytes', sa.BigInteger(), nullable=True),
    sa.Column('offset_bytes', sa.BigInteger(), nullable=False),
    sa.Column('turn', sa.BigInteger(), nullable=False),
    sa.Column('expected_digest', sa.String(length=64), nullable=True),
    sa.Column('blob_digest', sa.String(length=64), nullable=True),
    sa.Column('created_at', sa.Float(precision=53), nullable=False),
    sa.Column('expires_at', sa.Float(precision=53), nullable=False),
    sa.ForeignKeyConstraint(['blob_digest'], ['blobs.digest'], name=op.f('fk_uploads_blob_digest_blobs')),
    sa.ForeignKeyConstraint(['project_id'], ['projects.id'], name=op.f('fk_uploads_project_id_projects')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_uploads'))
    )
    with op.batch_alter_table('uploads', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_uploads_project_id_id'), ['project_id', 'id'], unique=False)
        batch_op.create_index(batch_op.f('ix_uploads_expires_at'), ['expires_at'], unique=False)
        batch_op.create_index(batch_op.f('ix_uploads_blob_digest'), ['blob_digest'], unique=False)
    op.create_table('upload_parts',
    sa.Column('name', sa.String(length=81), nullable=False),
    sa.Column('upload_id', sa.String(length=40), nullable=False),
    sa.Column('start_bytes', sa.BigInteger(), nullable=False),
    sa.Column('size_bytes', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['upload_id'], ['uploads.id'], name=op.f('fk_upload_parts_upload_id_uploads')),
    sa.PrimaryKeyConstraint('name', name=op.f('pk_upload_parts'))
    )
    with op.batch_alter_table('upload_parts', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_upload_parts_upload_id'), ['upload_id'], unique=False)


def downgrade() -> None:
    op.drop_table('upload_parts')
    op.drop_table('uploads')
