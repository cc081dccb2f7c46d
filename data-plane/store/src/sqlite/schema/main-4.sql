-- What was announced last of an endpoint's health, so that a repeated announcement makes no second event.
ALTER TABLE endpoint ADD COLUMN told_version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE endpoint ADD COLUMN told_state TEXT NOT NULL DEFAULT 'active';
