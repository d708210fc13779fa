"""The fence: once a change has returned, no process uses the state before it.

Every process that uses its memory is a reader: it has a row in the database with the epoch that it has applied. It may
use its memory while it holds a lease. It renews the lease by asking for the current epoch and applying the changes
since its own. After the commit, a change waits until every reader has applied it, or cannot hold a lease any more. So
readers never wait, and the rare writer waits a few milliseconds, or one lease after a process died or froze.

A reader identifies the state that it has applied by its epoch and its tag, and the server by its name. If the database
does not know that state, or if another server responds, the database was restored or failed over, and may lack changes
that the reader has applied. Then the reader drops everything and registers again.

Times are seconds of CLOCK_BOOTTIME, which also runs while a machine sleeps. They are compared only with times of the
same process, so clocks only have to run at about the same rate.

docs/fence.md has the whole protocol.
"""
