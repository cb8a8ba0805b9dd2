//! The HTTP-01 responder: the only part of Evercert that faces the internet.
