//! Load generators, counting receivers and ceilings for the published figures.
