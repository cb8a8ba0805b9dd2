//! Why a pass could not be finished. The object is requeued with a growing wait; nothing is lost by it.

use crate::apply::ApplyError;

/// Why a pass could not be finished.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused a request, or did not answer in time.
    #[error(transparent)]
    Api(#[from] ApplyError),
}

impl Error {
    /// Whether the object changed between read and write: the next pass sees the change.
    pub(crate) fn is_conflict(&self) -> bool {
        match self {
            Self::Api(error) => error.is_conflict(),
        }
    }
}
