//! Which program stands for which image.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;

use crate::operator::{IMAGE, sibling};

/// The tiny application of the demo and of the stories.
pub const DEMO_APP: &str = "localhost/demo-app:dev";

/// Images by name, each with the command that is its entry point.
#[derive(Debug, Clone)]
pub struct Images(HashMap<String, Vec<PathBuf>>);

impl Images {
    /// The images of this repository, played by the programs built beside this one.
    ///
    /// # Errors
    /// A program is not built.
    pub fn of_this_build() -> Result<Self> {
        Ok(Self(HashMap::from([
            (IMAGE.to_owned(), vec![sibling("evercert")?]),
            (DEMO_APP.to_owned(), vec![sibling("demo-app")?]),
        ])))
    }

    /// Whether every container of `pod` can be played.
    #[must_use]
    pub fn knows(&self, pod: &Pod) -> bool {
        let containers = pod.spec.as_ref().map_or(&[][..], |spec| &spec.containers);
        containers.iter().all(|container| {
            self.entry_point(container.image.as_deref().unwrap_or_default())
                .is_some()
        })
    }

    /// The command that `image` starts.
    #[must_use]
    pub fn entry_point(&self, image: &str) -> Option<&[PathBuf]> {
        self.0.get(image).map(Vec::as_slice)
    }
}
