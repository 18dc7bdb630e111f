-- From the tables of OAR 2.6 to those of OAR 3.0.
BEGIN;
ALTER TABLE jobs ADD COLUMN last_karma real;
ALTER TABLE job_dependencies ADD COLUMN IF NOT EXISTS min_start_shift varchar(12) NOT NULL DEFAULT '';
ALTER TABLE job_dependencies ADD COLUMN IF NOT EXISTS max_start_shift varchar(12) NOT NULL DEFAULT '';

CREATE TYPE job_state AS ENUM ('Waiting', 'Hold', 'toLaunch', 'toError', 'toAckReservation', 'Launching', 'Running',
                               'Suspended', 'Resuming', 'Finishing', 'Terminated', 'Error');
ALTER TABLE jobs DROP CONSTRAINT IF EXISTS jobs_state_check;
ALTER TABLE jobs ALTER COLUMN state DROP DEFAULT;
ALTER TABLE jobs ALTER COLUMN state TYPE job_state USING state::job_state;
ALTER TABLE jobs ALTER COLUMN state SET DEFAULT 'Waiting';

CREATE TYPE resource_index AS ENUM ('CURRENT', 'LOG');
ALTER TABLE assigned_resources DROP CONSTRAINT IF EXISTS assigned_resources_assigned_resource_index_check;
ALTER TABLE assigned_resources ALTER COLUMN assigned_resource_index DROP DEFAULT;
ALTER TABLE assigned_resources
    ALTER COLUMN assigned_resource_index TYPE resource_index USING assigned_resource_index::resource_index;
ALTER TABLE assigned_resources ALTER COLUMN assigned_resource_index SET DEFAULT 'CURRENT';

-- Rules in Perl mean nothing to OAR 3.
DELETE FROM admission_rules;
DELETE FROM schema;
INSERT INTO schema (version, name) VALUES ('3.0.0', '');
COMMIT;
