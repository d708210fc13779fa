"""The fence: why an answer from memory is never older than a change whose maker was told that it is made.

Every process that answers from memory is a reader: a row in the database with the epoch it has applied. It may answer
while it holds a lease, which it renews by asking for the current epoch and applying what changed since. Whoever changes
something waits, after the commit, until every reader has applied it or can hold no lease any more. So readers wait for
nothing, and the rare writer waits for a few milliseconds, or for one lease after a process died or froze.

A reader knows the state it has applied by its epoch and its tag, and the server that answers by its name. Where the
database does not know that state, or another server answers, it was restored or failed over, and may lack changes that
the reader has applied: then the reader drops everything and registers anew.

Times are seconds of CLOCK_BOOTTIME, which goes on while a machine sleeps, and are compared with those of the same
process only. All that must be true of clocks is that they run at about the same rate.
"""
