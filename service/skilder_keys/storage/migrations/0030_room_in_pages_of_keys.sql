-- A page of keys needs room for as many new versions as the keys that a statement records the first use of, about eight:
-- else the uses change every index. Pages that are there keep their room. No lock that stops reads or writes.
ALTER TABLE key SET (fillfactor = 70);
