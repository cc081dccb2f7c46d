//! The redirector: answers a scan from its cache once the scan is durable.
