"""Leadership on PostgreSQL: one row, and the database's clock, the only one that all agents share.

Who is frozen or cut off while it holds that row lets go of it sooner than of any other: nobody can follow it meanwhile.
"""

from __future__ import annotations

from agent.ledger.base import Deposed, Lease
from agent.ledger.postgres_session import Connection

_SOON = "SET LOCAL idle_in_transaction_session_timeout = '2s'"
# The clock is read after the row is locked: waiting for it counts.
_LOCK = "SELECT holder, epoch FROM mailvitals.lease FOR UPDATE"
_HOLDS = "SELECT expires > clock_timestamp() FROM mailvitals.lease"
_TAKE = "UPDATE mailvitals.lease SET holder = $1, epoch = $2, expires = clock_timestamp() + make_interval(secs => $3)"


async def lead(db: Connection, holder: str, seconds: float) -> Lease:
    """See ``base.Ledger.lead``."""
    await db.execute(_SOON)
    lease = Lease(*await db.fetchrow(_LOCK))
    if lease.holder != holder:
        if seconds <= 0 or await db.fetchval(_HOLDS):
            return lease
        lease = Lease(holder, lease.epoch + 1)
    await db.execute(_TAKE, holder, lease.epoch, max(0.0, seconds))
    return lease


async def hold(db: Connection, epoch: int) -> None:
    """Let nobody else become the leader until the end of the transaction. Raises ``Deposed`` if somebody has."""
    await db.execute(_SOON)
    now = await db.fetchval("SELECT epoch FROM mailvitals.lease FOR SHARE")
    if now != epoch:
        raise Deposed(f"epoch {epoch} ended; it is {now} now")
