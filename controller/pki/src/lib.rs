//! X.509 for Evercert: read certificates into facts, match keys, make keys, CSRs and self-signed certificates.
