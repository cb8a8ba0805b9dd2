//! The loop of Evercert: watch, gather, plan, execute, report.
