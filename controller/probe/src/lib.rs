//! The self-check: asks the entry point for a challenge as the CA would, and says what it saw.
