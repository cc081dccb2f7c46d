//! REST/JSON and OpenAPI over any tonic service, from its descriptors.
