//! The nouns of Evercert: custom resources, conditions, reasons, annotations, and names parsed once.
