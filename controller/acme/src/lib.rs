//! The certificate authority behind one port: instant-acme, time-outs, Retry-After and faults.
