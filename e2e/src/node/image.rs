//! Which program stands for which image.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;

use crate::image;
use crate::operator::sibling;

/// Images by name, each with the program that it would start.
#[derive(Debug, Clone)]
pub struct Images(HashMap<String, PathBuf>);

impl Images {
    /// The images of this repository, played by the programs built beside this one.
    ///
    /// # Errors
    /// A program is not built.
    pub fn of_this_build() -> Result<Self> {
        let program =
            |image: image::Image| Ok((image.reference.to_owned(), sibling(image.program)?));
        image::ALL
            .into_iter()
            .map(program)
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Whether every container of `pod` can be played.
    #[must_use]
    pub fn knows(&self, pod: &Pod) -> bool {
        let containers = pod.spec.as_ref().map_or(&[][..], |spec| &spec.containers);
        containers.iter().all(|container| {
            self.program(container.image.as_deref().unwrap_or_default())
                .is_some()
        })
    }

    /// The program that `image` starts.
    #[must_use]
    pub fn program(&self, image: &str) -> Option<&Path> {
        self.0.get(image).map(PathBuf::as_path)
    }
}
