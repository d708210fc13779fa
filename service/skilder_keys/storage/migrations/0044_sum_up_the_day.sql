-- The sum of a day that is not over has the hours before `summed_until`, as that of an hour has the minutes before it.
-- Whether a writer's version sets it to NULL when it adds to an earlier hour. While one does not, no part of a day is
-- summed up.
ALTER TABLE activity_writer ADD COLUMN knows_day_parts boolean NOT NULL DEFAULT false;
