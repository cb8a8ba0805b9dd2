//! The stories: what Evercert promises, tried on real parts.
