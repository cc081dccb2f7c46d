-- What became of a batch's events at an endpoint, so that a replay goes on under the ids that deliveries have.
CREATE INDEX attempt_by_event ON attempt (endpoint, event, first_at, number, status);
