-- Each scheduling of OAR takes place at a later second than the one before, and one that would be two seconds ahead of the clock waits,
-- with the tables locked. A job has three of them (submission, end, and what is left to do), so jobs of less than three seconds wait for
-- each other's. Here the schedulings of a second share it. `start --stock-timing` removes this again.
CREATE FUNCTION oardocker_gantt_date() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.start_time := LEAST(NEW.start_time, floor(extract(epoch FROM clock_timestamp()))::integer + 1);
    RETURN NEW;
END $$;

-- Job 0 stands for the time of the last scheduling.
CREATE TRIGGER oardocker_gantt_date BEFORE INSERT OR UPDATE ON gantt_jobs_predictions
    FOR EACH ROW WHEN (NEW.moldable_job_id = 0) EXECUTE PROCEDURE oardocker_gantt_date();
