//! The images that `make image` builds.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::manifest::repository;

/// An image under its name in the manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    /// What a pod names.
    pub reference: &'static str,
    /// The program that it holds, which a played node runs instead.
    pub program: &'static str,
}

/// Evercert: controller and solver.
pub const EVERCERT: Image = Image {
    reference: "localhost/evercert:dev",
    program: "evercert",
};

/// The tiny application of the demo and of the stories.
pub const DEMO_APP: Image = Image {
    reference: "localhost/demo-app:dev",
    program: "demo-app",
};

/// Every image that the stories' pods name.
pub const ALL: [Image; 2] = [EVERCERT, DEMO_APP];

impl Image {
    /// Its archive, as `docker save` writes them.
    ///
    /// # Errors
    /// It is not built.
    pub fn archive(&self) -> Result<PathBuf> {
        let path = folder().join(format!("{}.tar", self.program));
        if !path.is_file() {
            bail!(
                "the image {} is not built ({} is missing): make image",
                self.reference,
                path.display()
            );
        }
        Ok(path)
    }

    /// Its bill of materials, beside the archive.
    #[must_use]
    pub fn bill_of_materials(&self) -> PathBuf {
        folder().join(format!("{}.cdx.json", self.program))
    }

    /// The program that is in it, as it was built for it; `None` where it is not built.
    #[must_use]
    pub fn built_program(&self) -> Option<PathBuf> {
        let path = folder().join(self.program).join("out").join(self.program);
        path.is_file().then_some(path)
    }
}

/// Where `make image` leaves everything.
fn folder() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    repository().join(target).join("image")
}
