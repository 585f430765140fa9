"""what a statement of provenance tells of a round: its files' digests, its attempt's code and class of machine"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0009'
down_revision = '0007'
branch_labels = None
depends_on = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), 'postgresql')


def upgrade() -> None:
    with op.batch_alter_table('attempts', schema=None) as batch_op:
        batch_op.add_column(sa.Column('code_version', sa.String(length=40), nullable=True))
        batch_op.add_column(sa.Column('determinism', JSON, nullable=True))
    # Rounds from before tell no digests: files of theirs may be gone already.
    with op.batch_alter_table('rounds', schema=None) as batch_op:
        batch_op.add_column(sa.Column('digests', JSON, nullable=False, server_default='{}'))
    with op.batch_alter_table('rounds', schema=None) as batch_op:
        batch_op.alter_column('digests', existing_type=JSON, server_default=None)


def downgrade() -> None:
    with op.batch_alter_table('rounds', schema=None) as batch_op:
        batch_op.drop_column('digests')
    with op.batch_alter_table('attempts', schema=None) as batch_op:
        batch_op.drop_column('determinism')
        batch_op.drop_column('code_version')
