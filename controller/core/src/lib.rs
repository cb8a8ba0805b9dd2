//! The decisions of Evercert: pure functions from what was observed, and an instant, to what to do next.
